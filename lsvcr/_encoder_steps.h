/* The encoder's arithmetic, included once for each set of instructions: `LANES` numbers at a time,
 * functions named by `NAME`; products of `TALL` rows and `WIDE` vectors at once. Rows of activations
 * begin a multiple of a panel's width after one another, so that whole vectors can be read and
 * written everywhere.
 *
 * Shape suffixes as in _encoder.c.
 */

#define Vector NAME(Vector)
#define Integers NAME(Integers)
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum { NAME(PER_PANEL) = PANEL / LANES, NAME(MOST) = WIDE > PANEL / LANES ? WIDE : PANEL / LANES };

#define AT(address) (*(Vector *)(address))
#define READ(address) (*(const Vector *)(address))
#define ALL(number) ((number) - (Vector){0}) /* not 0 + number: that is a sum, for the sake of -0 */
#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")

INLINE Vector NAME(choose)(Integers mask, Vector one, Vector other)
{
    return (Vector)((mask & (Integers)one) | (~mask & (Integers)other));
}

INLINE float NAME(total)(Vector v)
{
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
}

/* e to the x, for x <= 0: 2 to the n times a series, |r| <= ln(2) / 2. */
INLINE Vector NAME(exponential)(Vector x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: what is added to it loses its fraction */
    x = NAME(choose)(x > ALL(-87.0f), x, ALL(-87.0f));
    Vector n = x * 1.44269504f + round - round;
    Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vector series = r * (1 / 720.0f) + 1 / 120.0f;
    series = series * r + 1 / 24.0f;
    series = series * r + 1 / 6.0f;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
    return series * (Vector)power;
}

/* x times the normal distribution's share below it; erf by the rational function of Eigen's
 * `generic_fast_erf_float`, within 3e-7 of it. */
INLINE Vector NAME(gelu)(Vector x)
{
    Vector z = x * 0.70710678f;
    z = NAME(choose)(z < ALL(4.0f), z, ALL(4.0f));
    z = NAME(choose)(z > ALL(-4.0f), z, ALL(-4.0f));
    Vector s = z * z;
    Vector p = s * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * s + -2.10102402082508e-06f;
    p = p * s + -5.69250639462346e-05f;
    p = p * s + -7.34990630326855e-04f;
    p = p * s + -2.95459980854025e-03f;
    p = p * s + -1.60960333262415e-02f;
    Vector q = s * -1.45660718464996e-05f + -2.13374055278905e-04f;
    q = q * s + -1.68282697438203e-03f;
    q = q * s + -7.37332916720468e-03f;
    q = q * s + -1.42647390514189e-02f;
    return x * 0.5f * (1.0f + z * p / q);
}

/* `rows` rows times `vectors` vectors of outputs; both are known when this is compiled. */
INLINE void NAME(block)(const int rows, const int vectors, const Product *product,
                        const float *x, const float *add, float *out, int64_t column)
{
    const int64_t depth = product->depth, x_stride = product->x_stride;
    const float *panel = product->panels + column * depth, *bias = product->bias + column;
    Vector sum[TALL * NAME(MOST)]; /* not rows * vectors: then it would not stay in registers */
    UNROLLED
    for (int v = 0; v < vectors; v++) {
        Vector b = READ(bias + v * LANES);
        UNROLLED
        for (int r = 0; r < rows; r++)
            sum[r * vectors + v] = b;
    }
    for (int64_t k = 0; k < depth; k++) {
        Vector w[NAME(MOST)];
        UNROLLED
        for (int v = 0; v < vectors; v++)
            w[v] = READ(panel + v / NAME(PER_PANEL) * depth * PANEL + k * PANEL +
                        v % NAME(PER_PANEL) * LANES);
        UNROLLED
        for (int r = 0; r < rows; r++) {
            Vector number = ALL(x[r * x_stride + k]);
            UNROLLED
            for (int v = 0; v < vectors; v++)
                sum[r * vectors + v] += number * w[v];
        }
    }
    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < vectors; v++) {
            Vector y = sum[r * vectors + v];
            if (add)
                y += READ(add + r * product->width + column + v * LANES);
            if (product->activates)
                y = NAME(gelu)(y);
            AT(out + r * product->width + column + v * LANES) = y;
        }
    }
}

INLINE void NAME(rows_of)(const int rows, const Product *product, int64_t row)
{
    const float *x = product->x + row * product->x_stride;
    const float *add = product->add ? product->add + row * product->width : NULL;
    float *out = product->out + row * product->width;
    int64_t column = 0;
    for (; column + WIDE * LANES <= product->width; column += WIDE * LANES)
        NAME(block)(rows, WIDE, product, x, add, out, column);
    for (; column < product->width; column += PANEL)
        NAME(block)(rows, NAME(PER_PANEL), product, x, add, out, column);
}

/* (T, depth) times weights, plus bias, plus `add`; then, perhaps, GELU. */
static void NAME(multiply)(const Product *product, int64_t rows)
{
    int64_t row = 0;
    for (; row + TALL <= rows; row += TALL)
        NAME(rows_of)(TALL, product, row);
    for (; row + 2 <= rows; row += 2)
        NAME(rows_of)(2, product, row);
    for (; row < rows; row++)
        NAME(rows_of)(1, product, row);
}

/* Rows less their mean, over their standard deviation; times `scale` plus `shift` if there are. */
static void NAME(normalise)(const float *x, float *out, int64_t rows, int64_t stride, int64_t width,
                            const float *scale, const float *shift)
{
    for (int64_t row = 0; row < rows; row++, x += stride, out += stride) {
        int64_t whole = width / LANES * LANES;
        Vector sum = {0}, squares = {0};
        for (int64_t d = 0; d < whole; d += LANES)
            sum += READ(x + d);
        float mean = NAME(total)(sum), square = 0;
        for (int64_t d = whole; d < width; d++)
            mean += x[d];
        mean /= (float)width;
        for (int64_t d = 0; d < whole; d += LANES) {
            Vector off = READ(x + d) - mean;
            squares += off * off;
        }
        square = NAME(total)(squares);
        for (int64_t d = whole; d < width; d++)
            square += (x[d] - mean) * (x[d] - mean);
        float factor = 1 / sqrtf(square / (float)width + 1e-5f);
        if (!scale) {
            for (int64_t d = 0; d < stride; d += LANES)
                AT(out + d) = (READ(x + d) - mean) * factor;
            continue;
        }
        for (int64_t d = 0; d < whole; d += LANES)
            AT(out + d) = (READ(x + d) - mean) * factor * READ(scale + d) + READ(shift + d);
        for (int64_t d = whole; d < width; d++)
            out[d] = (x[d] - mean) * factor * scale[d] + shift[d];
    }
}

/* One user and head, `rows` queries at once; the rows' scores are in `share_RU`. */
INLINE void NAME(attend_rows)(const int rows, const Attention *a, const float *query, float *out,
                              const int32_t *cut, float *share_RU)
{
    const int64_t padded = a->padded;
    float factor[4];
    /* Of a causal side, what comes later is not even computed. */
    int64_t end = padded;
    if (a->is_causal) {
        end = (int64_t)cut[rows - 1];
        end = (end + LANES - 1) / LANES * LANES;
        end = end < padded ? end : padded;
    }
    Vector most[4];
    UNROLLED
    for (int r = 0; r < rows; r++)
        most[r] = ALL(UNREAD);
    for (int64_t u = 0; u < end; u += LANES) {
        Vector score[4];
        UNROLLED
        for (int r = 0; r < rows; r++)
            score[r] = (Vector){0};
        for (int64_t h = 0; h < a->head_width; h++) {
            Vector key = READ(a->key_hU + h * padded + u);
            UNROLLED
            for (int r = 0; r < rows; r++)
                score[r] += ALL(query[r * a->query_stride + h]) * key;
        }
        Integers order = *(const Integers *)(a->order_U + u);
        UNROLLED
        for (int r = 0; r < rows; r++) {
            score[r] = NAME(choose)(order < cut[r] - (Integers){0}, score[r], ALL(UNREAD));
            most[r] = NAME(choose)(score[r] > most[r], score[r], most[r]);
            AT(share_RU + r * padded + u) = score[r];
        }
    }
    UNROLLED
    for (int r = 0; r < rows; r++) {
        float largest = most[r][0];
        for (int i = 1; i < LANES; i++)
            largest = most[r][i] > largest ? most[r][i] : largest;
        Vector sum = {0};
        for (int64_t u = 0; u < end; u += LANES) {
            Vector share = NAME(exponential)(READ(share_RU + r * padded + u) - largest);
            Integers order = *(const Integers *)(a->order_U + u);
            share = NAME(choose)(order < cut[r] - (Integers){0}, share, (Vector){0});
            AT(share_RU + r * padded + u) = share;
            sum += share;
        }
        factor[r] = 1 / NAME(total)(sum);
    }
    int64_t others = end < a->others ? end : a->others;
    for (int64_t h = 0; h < a->value_width; h += LANES) {
        Vector read[4];
        UNROLLED
        for (int r = 0; r < rows; r++)
            read[r] = (Vector){0};
        for (int64_t u = 0; u < others; u++) {
            Vector value = READ(a->value_Uh + u * a->value_stride + h);
            UNROLLED
            for (int r = 0; r < rows; r++)
                read[r] += ALL(share_RU[r * padded + u]) * value;
        }
        UNROLLED
        for (int r = 0; r < rows; r++)
            AT(out + r * a->out_stride + h) = read[r] * factor[r];
    }
}

/* One head of one user: what `queries` rows read of the others that come before their cuts. */
static void NAME(attend)(const Attention *a, int64_t queries, const float *query, float *out,
                         const int32_t *cut_T, float *share_RU)
{
    int64_t t = 0;
    for (; t + 4 <= queries; t += 4)
        NAME(attend_rows)(4, a, query + t * a->query_stride, out + t * a->out_stride, cut_T + t,
                          share_RU);
    for (; t < queries; t++)
        NAME(attend_rows)(1, a, query + t * a->query_stride, out + t * a->out_stride, cut_T + t,
                          share_RU);
}

/* GELU in place, and the inner product with some weights. */
static float NAME(score)(float *hidden, const float *weight, int64_t width)
{
    Vector sum = {0};
    int64_t whole = width / LANES * LANES;
    for (int64_t d = 0; d < whole; d += LANES)
        sum += NAME(gelu)(READ(hidden + d)) * READ(weight + d);
    float score = NAME(total)(sum);
    if (whole < width) {
        Vector rest = {0};
        for (int64_t d = whole; d < width; d++)
            rest[d - whole] = hidden[d];
        rest = NAME(gelu)(rest);
        for (int64_t d = whole; d < width; d++)
            score += rest[d - whole] * weight[d];
    }
    return score;
}

static const Steps NAME(steps) = {NAME(multiply), NAME(normalise), NAME(attend), NAME(score), LANES};

#undef Vector
#undef Integers
#undef AT
#undef READ
#undef ALL
#undef INLINE
#undef UNROLLED
#undef LANES
#undef NAME
#undef WIDE
#undef TALL
