// The instruction set that a translation unit is compiled for.  CMakeLists.txt compiles kernels.cpp once for each, with
// these macros and the compiler's flags; without them (an editor, a header by itself) it is the baseline.
//
// Everything that a kernel needs lies in the namespace gradnets::GRADNETS_ISA and uses no standard-library templates:
// the linker keeps one copy of an inline function, and it might keep the one whose instructions other machines lack.
// For the same reason there are no static constructors.
#pragma once

#ifndef GRADNETS_ISA
#define GRADNETS_ISA baseline
#define GRADNETS_VECTOR_BYTES 16
#define GRADNETS_TILE_ROWS 4
#define GRADNETS_TILE_VECTORS 3
#endif

#include "common.h"

#ifdef GRADNETS_BF16_DOT
#include <immintrin.h>
#endif
