// The candidates with the largest inner products, all compared: docs/decisions/0091.
//
// A tensor core's product is looked at where it stands, in registers: of 32 candidates only the best
// one's score is written. The K best candidates lie in the K groups whose best are best; these
// groups are scored once more, in single precision.
//
// Told to the compiler are WIDTH, numbers of a vector, a multiple of 16, and STAGES, tiles of candidates
// on their way. Candidates are in half precision; row 0 and those from `rows` on are none. Keys are
// unsigned, and in the order of the scores; 0 is nothing.
//
// Shape suffixes: B queries, N candidates, filled to whole runs, G groups, M of whatever is chosen
// from, K chosen, W the width.

#include "cuda_ptx.h"

constexpr int QUERIES = 64;             // compared with a candidate at once
constexpr int GROUP = 32;               // candidates
constexpr int RUN = 16;                 // groups, one behind the other, of one warp: a sector of keys
constexpr int TILE = 16;                // candidates in a product
constexpr int TILES = QUERIES / 8;      // of queries, in a product
constexpr int WHOLE = WIDTH / 32;       // pieces of a vector of which a thread reads 16 bytes
constexpr bool HALVED = WIDTH % 32 > 0; // whether 8 bytes more are to be read
constexpr int PRODUCTS = WIDTH / 16;
constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
constexpr int PIECES = 2 * WHOLE + HALVED;  // of 16 bytes, that a thread reads of a tile
constexpr int CHOOSING = 1024;          // threads
constexpr int MOST = 4096;              // put in order
constexpr unsigned ALL = ~0u;
constexpr float NONE = -3.4e38f;

__device__ Two two_of(const float* number) {
    return half_of(number[0]) | static_cast<Two>(half_of(number[1])) << 16;
}

// A thread copies what it will read itself into its own places, so no thread waits for another. It
// reads of two candidates, eight rows apart. The order of numbers in a vector is free, so it takes
// them as they lie, 16 bytes at once: the queries' are taken alike.
__device__ void copy_tile(uint4* there, const Half* candidate_NW, long long first_row) {
    const int high = threadIdx.x % 32 / 4, low = threadIdx.x % 4;
#pragma unroll
    for (int other = 0; other < 2; other++) {
        const Half* candidate_W = candidate_NW + (first_row + high + 8 * other) * WIDTH;
#pragma unroll
        for (int piece = 0; piece < WHOLE; piece++)
            begin_to_copy<16>(there + (2 * piece + other) * THREADS,
                              candidate_W + piece * 32 + low * 8);
        if (HALVED)
            begin_to_copy<8>(reinterpret_cast<uint2*>(there + 2 * WHOLE * THREADS) + other,
                             candidate_W + WHOLE * 32 + low * 4);
    }
}

// Eight threads hold the best of their candidates for the same queries. In three steps each has of
// all candidates those for 2 queries: half of them are given away at a step.
template <int KEPT>
__device__ void halve(float (&best)[2 * TILES]) {
    const bool is_upper = threadIdx.x / 4 & KEPT / 2;
#pragma unroll
    for (int one = 0; one < KEPT; one++) {
        const float given = is_upper ? best[one] : best[KEPT + one];
        const float held = is_upper ? best[KEPT + one] : best[one];
        best[one] = fmaxf(held, __shfl_xor_sync(ALL, given, KEPT / 2 * 4));
    }
    if constexpr (KEPT > 2) halve<KEPT / 2>(best);
}

// The best key of each group of candidates, best_BG, for 64 queries a block in y.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
best_of_groups(const Half* candidate_NW, const float* query_BW, int queries, int rows, int groups,
               Half* best_BG) {
    __shared__ __align__(16) Half run[WARPS][32][2][RUN];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int high = lane / 4, low = lane % 4;
    const int first_query = blockIdx.y * QUERIES;

    Two query[TILES][PRODUCTS][2];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const int number = first_query + tile * 8 + high;
        const float* query_W = query_BW + static_cast<long long>(number) * WIDTH;
#pragma unroll
        for (int product = 0; product < PRODUCTS; product++) {
            // Two products read 32 numbers: each thread 8 of them, one behind the other.
            const bool is_whole = product / 2 < WHOLE;
            const int place = is_whole ? product / 2 * 32 + low * 8 + product % 2 * 4
                                       : WHOLE * 32 + low * 4;
#pragma unroll
            for (int part = 0; part < 2; part++)
                query[tile][product][part] =
                    number < queries ? two_of(query_W + place + part * 2) : 0;
        }
    }

    const int runs = groups / RUN, step = gridDim.x * WARPS;
    // Tiles on their way: the next ones, of this run and then of those behind.
    int asked_run = blockIdx.x * WARPS + warp, asked_tile = 0, asked_stage = 0, stage = 0;
    const auto ask = [&] {
        uint4* there = ring + asked_stage * PIECES * THREADS + threadIdx.x;
        if (asked_run < runs)
            copy_tile(there, candidate_NW, (asked_run * (RUN * GROUP / TILE) + asked_tile) * TILE);
        end_group_of_copies();
        asked_stage = asked_stage + 1 == STAGES ? 0 : asked_stage + 1;
        if (++asked_tile == RUN * GROUP / TILE) asked_tile = 0, asked_run += step;
    };
    for (int one = 0; one < STAGES - 1; one++) ask();

    for (int number = blockIdx.x * WARPS + warp; number < runs; number += step) {
        const int first_row = number * RUN * GROUP;
        for (int group = 0; group < RUN; group++) {
            float best[TILES * 2];
#pragma unroll
            for (int one = 0; one < TILES * 2; one++) best[one] = NONE;
#pragma unroll
            for (int part = 0; part < GROUP / TILE; part++) {
                const int row = first_row + group * GROUP + part * TILE;
                wait_for_copies<STAGES - 2>();
                const uint4* here = ring + stage * PIECES * THREADS + threadIdx.x;
                float score[TILES][4] = {};
#pragma unroll
                for (int piece = 0; piece < WHOLE; piece++) {
                    const uint4 one = here[2 * piece * THREADS];
                    const uint4 other = here[(2 * piece + 1) * THREADS];
                    const Two first[4] = {one.x, other.x, one.y, other.y};
                    const Two second[4] = {one.z, other.z, one.w, other.w};
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++)  // none waits for the one before
                        add_product(score[tile], first, query[tile][piece * 2]);
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++)
                        add_product(score[tile], second, query[tile][piece * 2 + 1]);
                }
                if (HALVED) {
                    const uint4 both = here[2 * WHOLE * THREADS];
                    const Two last[4] = {both.x, both.z, both.y, both.w};
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++)
                        add_product(score[tile], last, query[tile][PRODUCTS - 1]);
                }
                ask();  // into the place that was read before this one
                stage = stage + 1 == STAGES ? 0 : stage + 1;
                if (row == 0 || row + TILE > rows) {
                    const bool is_none = row + high == 0 || row + high >= rows;
                    const bool is_other_none = row + high + 8 >= rows;
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
                        if (is_none) score[tile][0] = score[tile][1] = NONE;
                        if (is_other_none) score[tile][2] = score[tile][3] = NONE;
                    }
                }
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    best[tile * 2] = fmaxf(best[tile * 2], fmaxf(score[tile][0], score[tile][2]));
                    best[tile * 2 + 1] =
                        fmaxf(best[tile * 2 + 1], fmaxf(score[tile][1], score[tile][3]));
                }
            }
            halve<TILES>(best);
#pragma unroll
            for (int one = 0; one < 2; one++) {
                const Half half = half_of(best[one]);
                run[warp][lane][one][group] = half & 0x8000 ? ~half : half | 0x8000;
            }
        }
#pragma unroll
        for (int one = 0; one < 2; one++) {
            const int of = first_query + high * 8 + low * 2 + one;
            if (of >= queries) continue;
            uint4* there = reinterpret_cast<uint4*>(best_BG + static_cast<long long>(of) * groups +
                                                    number * RUN);
            const uint4* here = reinterpret_cast<const uint4*>(run[warp][lane][one]);
            there[0] = here[0];
            there[1] = here[1];
        }
    }
}

// How many a block's threads count together; three places are counted in by turns.
__device__ int count_together(int count, int (&places)[3], int& turn) {
    count = __reduce_add_sync(ALL, count);
    if (threadIdx.x % 32 == 0 && count) atomicAdd(&places[turn], count);
    if (threadIdx.x == 0) places[(turn + 1) % 3] = 0;
    __syncthreads();
    const int together = places[turn];
    turn = (turn + 1) % 3;
    return together;
}

// The largest key that at least `count` keys reach, bit by bit; 0 where there are fewer.
template <class Count>
__device__ unsigned reached_by(int count, int bits, int (&places)[3], int& turn, Count reach) {
    unsigned key = 0;
    for (int bit = bits - 1; bit >= 0; bit--)
        if (count_together(reach(key | 1u << bit), places, turn) >= count) key |= 1u << bit;
    return key;
}

// The places of the largest keys, in order, with their keys in front: `found`, of which the first
// `count` count; 0 where there are fewer. For a block of threads, and `count` up to half of MOST.
template <class Key>
__device__ void choose(const Key* key_M, int members, int count, unsigned long long (&found)[MOST]) {
    __shared__ int places[3], taken;
    int turn = 0;
    if (threadIdx.x == 0) places[0] = taken = 0;
    __syncthreads();

    // The best of each part of the members: as many parts as are wanted reach a key that as many
    // members at least reach, and few more.
    constexpr int TOGETHER = sizeof(uint4) / sizeof(Key);
    const auto look = [&](auto at) {
#pragma unroll 4
        for (int first = threadIdx.x * TOGETHER; first < members; first += CHOOSING * TOGETHER) {
            const uint4 read = *reinterpret_cast<const uint4*>(key_M + first);
            const unsigned words[4] = {read.x, read.y, read.z, read.w};
#pragma unroll
            for (int one = 0; one < TOGETHER; one++) {
                const unsigned word = words[one * 4 / TOGETHER];
                at(one, sizeof(Key) == 4 ? word : one % 2 ? word >> 16 : word & 0xffff, first + one);
            }
        }
    };
    unsigned best[TOGETHER] = {};
    look([&](int part, unsigned key, int) { best[part] = max(best[part], key); });
    unsigned least = reached_by(count, 8 * sizeof(Key), places, turn, [&](unsigned key) {
        int reaching = 0;
#pragma unroll
        for (int part = 0; part < TOGETHER; part++) reaching += best[part] >= key;
        return reaching;
    });

    // Those that reach it; or, where these are too many, as the best lie together in few parts or are
    // alike, those that are better than a key which enough reach, and then those that have this one.
    // One loop for all three: the compiler takes long for what is done with each key.
    for (int pass = 0; pass < 3; pass++) {
        const unsigned from = pass == 1 ? least + 1 : max(least, 1u), to = pass == 2 ? least : ALL;
        look([&](int, unsigned key, int member) {
            if (key < from || key > to) return;
            const int place = atomicAdd(&taken, 1);
            if (place < MOST) found[place] = static_cast<unsigned long long>(key) << 32 | member;
        });
        __syncthreads();
        if (pass > 0) continue;
        if (taken <= MOST) break;
        least = reached_by(count, 8 * sizeof(Key), places, turn, [&](unsigned key) {
            int reaching = 0;
            look([&](int, unsigned found, int) { reaching += found >= key; });
            return reaching;
        });
        if (threadIdx.x == 0) taken = 0;
        __syncthreads();
    }

    int size = 2;
    while (size < taken || size < count) size *= 2;
    size = min(size, MOST);
    for (int one = min(taken, MOST) + threadIdx.x; one < size; one += CHOOSING) found[one] = 0;
    __syncthreads();
    for (int run = 2; run <= size; run *= 2)
        for (int apart = run / 2; apart > 0; apart /= 2) {
            for (int one = threadIdx.x; one < size; one += CHOOSING) {
                const int other = one ^ apart;
                if (other < one) continue;
                const bool is_falling = !(one & run);
                const auto here = found[one], there = found[other];
                if (here < there == is_falling) found[one] = there, found[other] = here;
            }
            __syncthreads();
        }
}

// For each query, a block, the groups whose best are best: chosen_BK, -1 where there are fewer.
extern "C" __global__ void __launch_bounds__(CHOOSING)
choose_groups(const Half* best_BG, int groups, int count, int* chosen_BK) {
    __shared__ unsigned long long found[MOST];
    choose(best_BG + static_cast<long long>(blockIdx.x) * groups, groups, count, found);
    for (int one = threadIdx.x; one < count; one += CHOOSING)
        chosen_BK[blockIdx.x * count + one] = found[one] ? static_cast<int>(found[one]) : -1;
}

// Keys of all candidates of chosen groups, key_BM: a group each warp, a query's in y.
extern "C" __global__ void __launch_bounds__(THREADS)
score_groups(const Half* candidate_NW, const float* query_BW, int rows, int count,
             const int* chosen_BK, unsigned* key_BM) {
    const int lane = threadIdx.x % 32, one = blockIdx.x * WARPS + threadIdx.x / 32;
    if (one >= count) return;
    const float* query_W = query_BW + static_cast<long long>(blockIdx.y) * WIDTH;
    const int place = blockIdx.y * count + one, group = chosen_BK[place];
#pragma unroll
    for (int part = 0; part < GROUP; part += 8) {
        const int row = group * GROUP + part + lane / 4;
        const bool is_row = group >= 0 && row > 0 && row < rows;
        float score = 0;
        if (is_row) {
            const Half* candidate_W = candidate_NW + static_cast<long long>(row) * WIDTH;
#pragma unroll
            for (int start = 0; start < WIDTH; start += 16) {
                const int number = start + lane % 4 * 4;
                const uint2 read = __ldg(reinterpret_cast<const uint2*>(candidate_W + number));
                score += float_of(read.x) * query_W[number];
                score += float_of(read.x >> 16) * query_W[number + 1];
                score += float_of(read.y) * query_W[number + 2];
                score += float_of(read.y >> 16) * query_W[number + 3];
            }
        }
        score += __shfl_xor_sync(ALL, score, 1);
        score += __shfl_xor_sync(ALL, score, 2);
        if (lane % 4) continue;
        const unsigned bits = __float_as_uint(score == score ? score : NONE);
        const unsigned key = bits & 1u << 31 ? ~bits : bits | 1u << 31;
        key_BM[static_cast<long long>(place) * GROUP + part + lane / 4] = is_row ? key : 0;
    }
}

// For each query, a block, the best of these: row_BK, and part_BK, their scores; -1 and the smallest
// of numbers where there are fewer.
extern "C" __global__ void __launch_bounds__(CHOOSING)
choose_rows(const unsigned* key_BM, const int* chosen_BK, int count, int* row_BK, float* part_BK) {
    __shared__ unsigned long long found[MOST];
    const int first = blockIdx.x * count;
    choose(key_BM + static_cast<long long>(first) * GROUP, count * GROUP, count, found);
    for (int one = threadIdx.x; one < count; one += CHOOSING) {
        const unsigned key = found[one] >> 32, member = found[one];
        const unsigned bits = key & 1u << 31 ? key & ~(1u << 31) : ~key;
        const int group = key ? chosen_BK[first + member / GROUP] : -1;
        row_BK[first + one] = key ? group * GROUP + static_cast<int>(member % GROUP) : -1;
        part_BK[first + one] = key ? __uint_as_float(bits) : NONE;
    }
}
