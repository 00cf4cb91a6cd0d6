"""From a Python loop to machine code; imported only where a loop has to be compiled.

Numba translates, LLVM optimises.  Numba would optimise each function before it becomes part of the next, and the innermost
ones half a dozen times over; so it is told not to, and the whole is optimised once.  The code runs without Numba, since a
loop allocates nothing and raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic, overload, register_jitable

from . import jit, native, team, tile

__all__ = ["machine_code"]


def machine_code(python_loop: Callable, kinds: tuple[jit.Kind, ...]) -> tuple[list[str], bytes, int, Any]:
    """``(symbols that must be there, code, address, what holds on to it)``; the last two are Numba's, in this process."""
    run = _unpacking(python_loop, kinds) if kinds else python_loop
    _register(run)
    signature = types.void(types.CPointer(types.intp) if kinds else types.intp, types.intp, types.intp, types.intp)
    config, cfunc = cast(Any, numba.config), cast(Any, numba.cfunc)  # neither is typed as it is
    with global_compiler_lock:
        level, config.OPT = config.OPT, type(config.OPT)(0)
        try:
            owner = cfunc(signature, error_model="numpy", no_cpython_wrapper=True)(run)
        finally:
            config.OPT = level
    module = llvm.parse_assembly(owner.inspect_llvm())
    machine = native.target_machine()
    _optimise(module, owner.native_name, machine)
    needed = [f for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    needed += [v for v in module.global_variables if v.is_declaration]
    return [value.name for value in needed], machine.emit_object(module), owner.address, owner


def _unpacking(python_loop: Callable, kinds: tuple[jit.Kind, ...]) -> Callable:
    """The loop as it is called: its arguments lie in a row somewhere."""
    arguments = _arguments(kinds)

    def run(packed, own, lo, hi):
        python_loop(*arguments(packed, own), lo, hi)

    return run


def _register(function: Callable) -> None:
    """Tell Numba of all functions that this one calls, and they, so that they are compiled into it."""
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    for called in (*named, *(cell.cell_contents for cell in function.__closure__ or ())):
        if isinstance(called, FunctionType) and called not in _registered:
            _registered.add(called)
            register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)(called)
            _register(called)


_registered = set[Callable]()


def _optimise(module: llvm.ModuleRef, entry: str, machine: llvm.TargetMachine) -> None:
    """Make it fast.  One function is called from outside, and is named run; of the others LLVM drops what is not needed.

    No function here ever raises: what would handle it, with Numba's help, goes too.
    """
    module.link_in(llvm.parse_assembly(str(_no_owners())))
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration:
            value.linkage = "external" if value.name == entry else "internal"
    module.get_function(entry).name = "run"
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    # Rows wait for memory or for a division: longer bodies are as slow, and a quarter of the time went into them.
    options.loop_unrolling = options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


def _no_owners() -> ir.Module:
    """Numba counts who needs an array.  Here all belong to the caller, and counting would keep loops from being fast."""
    module = ir.Module()
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    for name in ("NRT_incref", "NRT_decref"):
        ir.IRBuilder(ir.Function(module, kind, name).append_basic_block()).ret_void()
    return module


def _arguments(kinds: tuple[jit.Kind, ...]) -> Any:
    """From what :class:`minisnn.kernels.jit.Loop` packs, a word each, to the arguments of the loop: pointers and numbers."""
    element = [numba.from_dtype(kind.dtype) if kind.dtype else types.intp for kind in kinds]
    found = [types.CPointer(e) if k.name in ("scratch", "array") else e for k, e in zip(kinds, element, strict=True)]

    @intrinsic
    def arguments(typing_context, packed, own):
        def code(context, builder, signature, given):
            values = []
            for i, (kind, type_) in enumerate(zip(kinds, found, strict=True)):
                word = builder.load(builder.gep(given[0], [ir.IntType(64)(i)]))
                if kind.name == "scratch":
                    word = builder.add(word, given[1])
                if kind.name == "real":
                    word = context.cast(builder, builder.bitcast(word, ir.DoubleType()), types.float64, type_)
                elif kind.name != "whole":
                    word = builder.inttoptr(word, context.get_value_type(type_))
                values.append(word)
            return context.make_tuple(builder, signature.return_type, values)

        return types.BaseTuple.from_types(found)(packed, own), code

    return arguments


# -- words of the loops, and of the team


def _means(word: Callable) -> Callable:
    """What the compiler makes of a word: where a loop calls it, the code that the decorated function builds."""

    def meant(builds: Callable) -> Callable:
        call = intrinsic(builds)
        overload(word)(lambda *given: lambda *given: call(*given))
        _registered.add(word)
        return call

    return meant


@_means(tile.prefetch)
def _prefetch(typing_context, array, at):
    def code(context, builder, signature, given):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(given[0], [given[1]]), pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        builder.call(prefetch, [place, *(number(n) for n in (0, 2, 1))])  # to be read, into the second cache, data

    return types.void(array, at), code


@_means(tile.missing)
def _missing(typing_context, array):
    def code(context, builder, signature, given):
        return builder.icmp_unsigned("==", builder.ptrtoint(given[0], ir.IntType(64)), ir.IntType(64)(0))

    return types.boolean(array), code


_WORD = ir.IntType(64)


def _word_at(builder: Any, block: Any, at: Any) -> Any:
    return builder.inttoptr(builder.add(block, builder.mul(at, _WORD(8))), _WORD.as_pointer())


@_means(team.look)
def _look(typing_context, block, at):
    def code(context, builder, signature, given):
        return builder.load_atomic(_word_at(builder, *given), "acquire", 8)

    return types.intp(block, at), code


@_means(team.put)
def _put(typing_context, block, at, value):
    def code(context, builder, signature, given):
        builder.store_atomic(given[2], _word_at(builder, *given[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(block, at, types.intp), code


@_means(team.add)
def _add(typing_context, block, at, n):
    def code(context, builder, signature, given):
        return builder.atomic_rmw("add", _word_at(builder, *given[:2]), given[2], "seq_cst")

    return types.intp(block, at, types.intp), code


@_means(team.pause)
def _pause(typing_context):
    def code(context, builder, signature, given):
        machine, number = llvm.get_process_triple().split("-")[0], ir.IntType(32)
        if machine.startswith(("x86", "i")):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        elif machine.startswith(("aarch64", "arm64")):
            kind = ir.FunctionType(ir.VoidType(), [number])
            builder.call(builder.module.declare_intrinsic("llvm.aarch64.hint", (), kind), [number(1)])
        return context.get_dummy_value()

    return types.void(), code


@_means(team.call)
def _call(typing_context, function, packed, own, lo, hi):
    def code(context, builder, signature, given):
        kind = ir.FunctionType(ir.VoidType(), [_WORD] * 4)
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), given[1:])
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 5), code
