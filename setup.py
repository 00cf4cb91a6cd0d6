"""Packaging of minisnn: metadata and dependencies.  Tool settings stand in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "minisnn/version.py").read_text(encoding="utf-8"), re.M).group(1)

setup(
    name="minisnn",
    version=VERSION,
    description="Spiking neural networks trained without autograd: every gradient derived by hand, and checked",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["minisnn", "minisnn.*"]),
    package_data={"minisnn": ["py.typed"], "minisnn.data": ["*.npz"]},
    python_requires=">=3.11",
    install_requires=[
        "numpy>=1.26",
        'numba>=0.61; sys_platform != "emscripten"',
        "matplotlib>=3.8",
        "tqdm>=4.60",
        "threadpoolctl>=3.1",
    ],
    extras_require={
        # CuPy and the CUDA libraries that it calls, for a driver that knows CUDA 13; minisnn info says what fits others.
        "gpu": ["cupy-cuda13x[ctk]>=14"],
        # What makes the CUDA text and compiles it without a card.  CuPy and NVRTC: one major version of CUDA.
        "gpu-test": ["cupy-cuda13x>=14", "nvidia-cuda-nvrtc>=13,<14"],
        "data": ["pooch>=1.8"],
        "test": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "sympy>=1.12", "pooch>=1.8"],
        "symbolic": ["sympy>=1.12"],
        "lint": ["ruff>=0.6", "mypy>=1.11"],
        "docs": ["sphinx>=8", "sphinx-gallery>=0.18", "furo>=2024.8", "sphinx-mathjax-offline>=0.0.2"],
        "bench": ["torch>=2.4"],
    },
    entry_points={"console_scripts": ["minisnn = minisnn.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
