// Vectors as they are compared by `cuda_nearest.cu`, in half precision.
//
// WIDTH is told to the compiler: numbers of a row. Shape suffixes: N vectors, D numbers of each, F of
// a part behind it, W of both and zeros.

#include "cuda_ptx.h"

constexpr int WARPS = 8;
constexpr unsigned ALL = ~0u;

// Vectors in half precision, with the directions of parts behind them; a warp each. Shorter ones than
// `shortest` have none; null where there are no parts.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
lay_out(const float* vector_ND, int width, const Half* part_NF, int parts_width, float shortest,
        int rows, Half* row_NW) {
    const int lane = threadIdx.x % 32, row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    const Half* part_F = part_NF + static_cast<long long>(row) * parts_width;
    float square = 0;
    for (int one = lane; part_NF && one < parts_width; one += 32)
        square += float_of(part_F[one]) * float_of(part_F[one]);
    for (int apart = 16; apart > 0; apart /= 2) square += __shfl_xor_sync(ALL, square, apart);
    const float divisor = fmaxf(sqrtf(square), shortest);
    for (int one = lane; one < WIDTH; one += 32) {
        const bool is_part = part_NF && one >= width && one < width + parts_width;
        const float number = one < width ? vector_ND[static_cast<long long>(row) * width + one]
                             : is_part   ? float_of(part_F[one - width]) / divisor
                                         : 0;
        row_NW[static_cast<long long>(row) * WIDTH + one] = half_of(number);
    }
}
