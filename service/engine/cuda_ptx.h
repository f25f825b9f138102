// What a GPU does that C++ has no words for: PTX ISA, "mma.m16n8k16", "cp.async", "cvt".

#ifndef CUDA_PTX_H
#define CUDA_PTX_H

using Half = unsigned short;
using Two = unsigned int;  // halves, the first one in the lower bits

// Of a block, as much as it is launched with.
extern __shared__ uint4 ring[];

__device__ inline Half half_of(float number) {
    Half half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(number));
    return half;
}

__device__ inline float float_of(Half half) {
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(half));
    return number;
}

// A warp's product of 16 rows and 8 columns, of 16 numbers each, added to what is there. Thread
// 4 i + j has of rows i and i + 8, of numbers 2 j, 2 j + 1 and 8 more: row[0] and [1] of the former, [2]
// and [3] of the latter; of column i alike; and the sums for these rows and columns 2 j and 2 j + 1.
__device__ inline void add_product(float (&sum)[4], const Two (&row)[4], const Two (&column)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(row[0]), "r"(row[1]), "r"(row[2]), "r"(row[3]), "r"(column[0]), "r"(column[1]));
}

// Begin to copy to shared memory; 8 or 16 bytes.
template <int BYTES>
__device__ void begin_to_copy(void* to, const void* from) {
    const unsigned place = __cvta_generic_to_shared(to);
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(place), "l"(from) : "memory");
}

// All that was begun since the last time is one group of copies, which may be none.
__device__ inline void end_group_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait for this thread's groups but for the last ones.
template <int LAST>
__device__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LAST) : "memory");
}

#endif
