// What CUDA text that cupyx.jit made needs to run on a CPU: one thread after the other, IEEE arithmetic, no card.
#pragma once
#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#define __global__
#define __device__
namespace STD = std;
// In CUDA these have overloads for float; those of C alone would compute in double.
using std::exp, std::atan, std::tanh, std::sqrt, std::log, std::cos, std::sin, std::isnan, std::max, std::min;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

template <class A, class B>
static auto _floor_divide(A a, B b) {  // of whole numbers that are not negative: all indices are
  return a / b;
}
