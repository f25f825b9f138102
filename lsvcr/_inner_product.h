/* The inner product of two vectors; compiled with the instructions of whoever calls it. */

#ifndef LSVCR_INNER_PRODUCT_H
#define LSVCR_INNER_PRODUCT_H

#include <stdint.h>

enum { LANES = 16 };

/* Summed in the same order whatever stands where: equal vectors score alike. */
static inline __attribute__((always_inline)) float inner_product(const float *one, const float *other,
                                                                 int64_t width)
{
    float lane[LANES] = {0}, rest = 0;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int64_t j = 0; j < LANES; j++)
            lane[j] += one[i + j] * other[i + j];
    for (; i < width; i++)
        rest += one[i] * other[i];
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0] + rest;
}

#endif
