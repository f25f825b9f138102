// In place of the service's own: what kernels are written in, for a CPU. Each thread of a block is a
// fiber, and goes on until it waits for others; blocks run one after another.

#ifndef CUDA_PTX_H
#define CUDA_PTX_H

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#define __device__
#define __global__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

using Half = unsigned short;
using Two = unsigned int;
using std::max, std::min;

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct Place {
    unsigned x, y;
};

constexpr int MOST_THREADS = 1024, WARP = 32;

struct Barrier {
    int here = 0, times = 0;
};

static Place threadIdx, blockIdx, gridDim;
static int living;
static Barrier block_barrier, warp_barriers[MOST_THREADS / WARP];
static uint4 ring[1 << 14];

void let_others_go_on();  // launch.cpp

static void wait_for(Barrier& barrier, int all) {
    if (++barrier.here == all) {
        barrier.here = 0;
        barrier.times++;
        return;
    }
    for (const int times = barrier.times; barrier.times == times;) let_others_go_on();
}

static void wait_for_warp() { wait_for(warp_barriers[threadIdx.x / WARP], WARP); }

static void __syncthreads() { wait_for(block_barrier, living); }

// What one thread of a warp gives, and all others see.
template <class Given, class Use>
auto exchange(const Given& given, Use use) {
    static Given of_all[MOST_THREADS];
    of_all[threadIdx.x] = given;
    wait_for_warp();
    const auto used = use(of_all + threadIdx.x / WARP * WARP);
    wait_for_warp();
    return used;
}

template <class Number>
Number __shfl_xor_sync(unsigned, Number number, int apart) {
    return exchange(number, [&](const Number* all) { return all[(threadIdx.x % WARP) ^ apart]; });
}

static int __reduce_add_sync(unsigned, int number) {
    return exchange(number, [](const int* all) {
        int sum = 0;
        for (int one = 0; one < WARP; one++) sum += all[one];
        return sum;
    });
}

static int atomicAdd(int* number, int more) {
    const int before = *number;
    *number += more;
    return before;
}

template <class Kind>
Kind __ldg(const Kind* place) {
    return *place;
}

static unsigned __float_as_uint(float number) {
    unsigned bits;
    std::memcpy(&bits, &number, sizeof bits);
    return bits;
}

static float __uint_as_float(unsigned bits) {
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

static Half half_of(float number) { return _cvtss_sh(number, _MM_FROUND_TO_NEAREST_INT); }

static float float_of(Half half) { return _cvtsh_ss(half); }

// As PTX ISA lays out "mma.m16n8k16": who holds which number.
static void add_product(float (&sum)[4], const Two (&row)[4], const Two (&column)[2]) {
    struct Held {
        Two row[4], column[2];
    };
    const auto number = [](Two two, int place) { return float_of(place ? two >> 16 : two & 0xffff); };
    exchange(Held{{row[0], row[1], row[2], row[3]}, {column[0], column[1]}}, [&](const Held* all) {
        const int high = threadIdx.x % WARP / 4, low = threadIdx.x % 4;
        for (int one = 0; one < 4; one++)
            for (int k = 0; k < 16; k++) {
                const int at = k % 8 / 2, upper = k / 8;
                const Held& left = all[high * 4 + at];
                const Held& right = all[(low * 2 + one % 2) * 4 + at];
                sum[one] += number(left.row[one / 2 + 2 * upper], k % 2) *
                            number(right.column[upper], k % 2);
            }
        return 0;
    });
}

// A copy arrives as late as it may: when its group is waited for.
struct Copy {
    void* to;
    const void* from;
    int bytes;
};
constexpr int MOST_COPIES = 64, MOST_GROUPS = 8;
static struct {
    Copy copies[MOST_GROUPS][MOST_COPIES];
    int counts[MOST_GROUPS], first, groups, begun;
} on_their_way[MOST_THREADS];

template <int BYTES>
void begin_to_copy(void* to, const void* from) {
    auto& mine = on_their_way[threadIdx.x];
    const int group = (mine.first + mine.groups) % MOST_GROUPS;
    mine.copies[group][mine.begun++] = {to, from, BYTES};
}

static void end_group_of_copies() {
    auto& mine = on_their_way[threadIdx.x];
    mine.counts[(mine.first + mine.groups++) % MOST_GROUPS] = mine.begun;
    mine.begun = 0;
}

template <int LAST>
void wait_for_copies() {
    auto& mine = on_their_way[threadIdx.x];
    for (; mine.groups > LAST; mine.groups--, mine.first = (mine.first + 1) % MOST_GROUPS)
        for (int one = 0; one < mine.counts[mine.first]; one++) {
            const Copy& copy = mine.copies[mine.first][one];
            std::memcpy(copy.to, copy.from, copy.bytes);
        }
}

#endif
