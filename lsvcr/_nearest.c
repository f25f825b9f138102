/* The candidates with the largest inner products, by comparing all of them in 8 bits a number, and
 * again, exactly, those that may be among the best. `_nearest.pyi` says what goes in and comes out;
 * nothing here keeps anything.
 *
 * Bytes are compared many times faster than whole numbers are, and some queries together, which read
 * them once. How far such a product is from the exact one is known, and so is what can't be missed.
 *
 * Shape suffixes: N candidates, in whole panels, Q groups of 4 numbers, B queries, K found, D width.
 */

#include "_calls.h"
#include "_inner_product.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_WIDE 1 /* Clang knows no such pragmas as below */
#include <immintrin.h>
#endif

enum { PANEL = 16 };  /* candidates that stand together, 4 numbers of each after one another */
enum { BLOCK = 64 };  /* panels that are compared with all queries before the next ones */
enum { TOGETHER = 8 }; /* queries that are compared at once, at most */
enum { MOST_WIDTH = 4096, LEAST_MORE = 256, STEPS = 512, AHEAD = 12, MOST_BYTES = 64 };
/* Of sums of some dozens of products of unit vectors; and of large parts in them. */
static const float ROUNDING = 1e-5f, RELATIVE = 1e-6f;

typedef struct {
    float score;
    int32_t row;
} Found;

typedef struct {
    int64_t width, groups, rows;
    const uint8_t *short_NQ4; /* each number, plus 128 */
    const float *scale_N, *part_N, *candidate_VD;
    float error, length; /* of a shortened candidate, at most */
} Table;

typedef struct {
    const float *query_D;
    int32_t *short_Q; /* 4 numbers each */
    float scale, weight, least, slack;
    int32_t offset;
    int64_t wanted, count, limit, capacity; /* what stands in `found` is narrowed at a limit */
    Found *found;
    int has_failed;
} Query;

typedef struct {
    void (*scan)(const Table *table, int64_t panel, int64_t end, Query *query_B, int64_t count);
    float (*multiply)(const float *one, const float *other, int64_t width);
    int32_t levels;
    int64_t bytes;
} Steps;

/* As `fmaxf` and `fminf`, which are calls of a library; the first where the second is no number. */
static inline float larger(float one, float other) { return other > one ? other : one; }
static inline float smaller(float one, float other) { return other < one ? other : one; }

/* ---- choosing ------------------------------------------------------------------------------ */

static int is_before(const Found *one, const Found *other)
{
    return one->score > other->score || (one->score == other->score && one->row < other->row);
}

/* Puts the best so many first, in order. */
static void put_in_order(Found *found, int64_t count, int64_t wanted)
{
    int64_t low = 0, high = count - 1;
    while (high - low > 16) { /* the rest of this part is better than all behind it, or sorted last */
        Found pivot = found[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (is_before(&found[i], &pivot))
                i++;
            while (is_before(&pivot, &found[j]))
                j--;
            if (i <= j) {
                Found other = found[i];
                found[i++] = found[j];
                found[j--] = other;
            }
        }
        if (i < wanted)
            put_in_order(found + i, high - i + 1, wanted - i);
        high = j;
    }
    for (int64_t i = low + 1; i <= high; i++) {
        Found one = found[i];
        int64_t place = i;
        for (; place > low && is_before(&one, &found[place - 1]); place--)
            found[place] = found[place - 1];
        found[place] = one;
    }
}

/* Drops what can't be among the best any more, and hardly anything can be missed that could go, too:
 * the worst of the best is looked for among steps of the range that scores have. */
static void narrow(Query *query)
{
    float low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < query->count; i++) {
        low = smaller(low, query->found[i].score);
        high = larger(high, query->found[i].score);
    }
    int32_t counts[STEPS] = {0};
    float steps = high > low ? (STEPS - 1) / (high - low) : 0;
    for (int64_t i = 0; i < query->count; i++) {
        float place = (query->found[i].score - low) * steps;
        counts[place > 0 && place < STEPS ? (int32_t)place : 0]++; /* what overflows is nowhere */
    }
    int64_t at_least = 0;
    int32_t step = STEPS;
    while (step > 0 && at_least < query->wanted)
        at_least += counts[--step];
    float worst = steps > 0 ? low + (float)step / steps : low;
    float slack = query->slack + RELATIVE * larger(fabsf(low), fabsf(high));
    query->least = larger(query->least, worst - slack);
    int64_t kept = 0;
    for (int64_t i = 0; i < query->count; i++) {
        query->found[kept] = query->found[i];
        kept += query->found[i].score >= query->least;
    }
    query->count = kept;
}

/* Makes room for more by dropping some, or where most of them may be among the best. */
static void make_room(Query *query)
{
    narrow(query);
    query->limit = 2 * query->count + query->wanted + LEAST_MORE;
    if (query->limit <= query->capacity)
        return;
    size_t capacity = 2 * (size_t)query->capacity;
    Found *found = realloc(query->found, capacity * sizeof *found);
    query->has_failed |= !found;
    if (found) {
        query->found = found;
        query->capacity = (int64_t)capacity;
        query->limit = query->limit < query->capacity ? query->limit : query->capacity;
    }
}

static inline void note(Query *query, float score, int64_t row)
{
    if (query->count == query->limit)
        make_room(query);
    if (query->count < query->capacity && score >= query->least)
        query->found[query->count++] = (Found){score, (int32_t)row};
}

/* ---- comparing ----------------------------------------------------------------------------- */

#ifdef HAS_WIDE
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vnni,avx2,fma")
#define NAME(name) name##_vnni
#define LEVELS 127
#define BYTES 64
#define AT_ONCE 8
typedef struct {
    __m512i all;
} Sums_vnni;
static inline __attribute__((always_inline)) Sums_vnni start_vnni(int32_t offset)
{
    return (Sums_vnni){_mm512_set1_epi32(offset)};
}
static inline __attribute__((always_inline)) void add_vnni(Sums_vnni *sums, const uint8_t *row,
                                                           int32_t query)
{
    sums->all = _mm512_dpbusd_epi32(sums->all, _mm512_loadu_si512(row), _mm512_set1_epi32(query));
}
static inline __attribute__((always_inline)) uint32_t reach_vnni(
    const Sums_vnni *sums, const Query *query, const float *scale, const float *part, float *score)
{
    __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums->all), _mm512_loadu_ps(scale));
    product = _mm512_mul_ps(product, _mm512_set1_ps(query->scale));
    if (part)
        product = _mm512_fmadd_ps(_mm512_set1_ps(query->weight), _mm512_loadu_ps(part), product);
    _mm512_storeu_ps(score, product);
    return _mm512_cmp_ps_mask(product, _mm512_set1_ps(query->least), _CMP_GE_OQ);
}
#include "_nearest_steps.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define NAME(name) name##_avx2
#define LEVELS 63 /* so that two products of 8 bits fit into 16 */
#define BYTES 32
#define AT_ONCE 4
typedef struct {
    __m256i half[2];
} Sums_avx2;
static inline __attribute__((always_inline)) Sums_avx2 start_avx2(int32_t offset)
{
    return (Sums_avx2){{_mm256_set1_epi32(offset), _mm256_set1_epi32(offset)}};
}
static inline __attribute__((always_inline)) void add_avx2(Sums_avx2 *sums, const uint8_t *row,
                                                           int32_t query)
{
    for (int i = 0; i < 2; i++) {
        __m256i number = _mm256_loadu_si256((const __m256i *)(row + 32 * i));
        __m256i pairs = _mm256_maddubs_epi16(number, _mm256_set1_epi32(query));
        pairs = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        sums->half[i] = _mm256_add_epi32(sums->half[i], pairs);
    }
}
static inline __attribute__((always_inline)) uint32_t reach_avx2(
    const Sums_avx2 *sums, const Query *query, const float *scale, const float *part, float *score)
{
    uint32_t reached = 0;
    for (int i = 0; i < 2; i++) {
        __m256 product = _mm256_cvtepi32_ps(sums->half[i]), weight = _mm256_set1_ps(query->weight);
        product = _mm256_mul_ps(product, _mm256_loadu_ps(scale + 8 * i));
        product = _mm256_mul_ps(product, _mm256_set1_ps(query->scale));
        if (part)
            product = _mm256_fmadd_ps(weight, _mm256_loadu_ps(part + 8 * i), product);
        _mm256_storeu_ps(score + 8 * i, product);
        __m256 is_least = _mm256_cmp_ps(product, _mm256_set1_ps(query->least), _CMP_GE_OQ);
        reached |= (uint32_t)_mm256_movemask_ps(is_least) << 8 * i;
    }
    return reached;
}
#include "_nearest_steps.h"
#pragma GCC pop_options
#endif

#define NAME(name) name##_any
#define LEVELS 127
#define BYTES 4
#define AT_ONCE 4
typedef struct {
    int32_t all[PANEL];
} Sums_any;
static inline Sums_any start_any(int32_t offset)
{
    Sums_any sums;
    for (int i = 0; i < PANEL; i++)
        sums.all[i] = offset;
    return sums;
}
static inline void add_any(Sums_any *sums, const uint8_t *row, int32_t query)
{
    int8_t number[4];
    memcpy(number, &query, sizeof number);
    for (int i = 0; i < PANEL; i++)
        sums->all[i] += row[4 * i] * number[0] + row[4 * i + 1] * number[1] +
                        row[4 * i + 2] * number[2] + row[4 * i + 3] * number[3];
}
static inline uint32_t reach_any(const Sums_any *sums, const Query *query, const float *scale,
                                 const float *part, float *score)
{
    uint32_t reached = 0;
    for (int i = 0; i < PANEL; i++) {
        score[i] = (float)sums->all[i] * scale[i] * query->scale;
        score[i] += part ? query->weight * part[i] : 0;
        reached |= (uint32_t)(score[i] >= query->least) << i;
    }
    return reached;
}
#include "_nearest_steps.h"

/* The fastest steps, of at most so many bytes at a time, that this processor can do. */
static const Steps *choose_steps(int64_t most)
{
#ifdef HAS_WIDE
    __builtin_cpu_init();
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (most >= 64 && has_avx2 && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512bw"))
        return &steps_vnni;
    if (most >= 32 && has_avx2)
        return &steps_avx2;
#endif
    (void)most;
    return &steps_any;
}

/* ---- a search ------------------------------------------------------------------------------ */

/* Shortens a query: to so many levels on either side of 0. */
static void shorten(const Table *table, Query *query, int32_t levels)
{
    float largest = 0, length = 0, lost = 0;
    for (int64_t d = 0; d < table->width; d++) {
        largest = larger(largest, fabsf(query->query_D[d]));
        length += query->query_D[d] * query->query_D[d];
    }
    query->scale = largest / (float)levels;
    int8_t *number = (int8_t *)query->short_Q;
    memset(number, 0, 4 * (size_t)table->groups);
    int32_t sum = 0;
    for (int64_t d = 0; d < table->width && largest > 0; d++) {
        number[d] = (int8_t)lrintf(query->query_D[d] / query->scale);
        float left = query->query_D[d] - (float)number[d] * query->scale;
        lost += left * left;
        sum += number[d];
    }
    query->offset = -128 * sum;
    float error = sqrtf(length) * table->error + sqrtf(lost) * table->length;
    query->slack = 2 * (error + ROUNDING);
    query->least = -INFINITY;
}

static int begin(const Table *table, Query *query, int64_t wanted, int32_t levels)
{
    query->wanted = wanted;
    query->limit = query->capacity = 2 * wanted + LEAST_MORE;
    query->short_Q = malloc(4 * (size_t)table->groups);
    query->found = malloc((size_t)query->capacity * sizeof *query->found);
    if (!query->short_Q || !query->found)
        return OUT_OF_MEMORY;
    shorten(table, query, levels);
    return DONE;
}

/* Has a vector come that is read soon. */
static void fetch(const float *candidate_D, int64_t width)
{
    for (int64_t d = 0; d < width; d += 16) /* 64 bytes come at a time */
        __builtin_prefetch(candidate_D + d);
}

/* Compares exactly what may be among the best, and tells them in order. */
static void end(const Steps *steps, const Table *table, Query *query, int32_t *row_K,
                float *score_K)
{
    narrow(query);
    for (int64_t i = 0; i < query->count; i++) {
        Found *found = &query->found[i];
        if (i + AHEAD < query->count)
            fetch(table->candidate_VD + (found[AHEAD].row + 1) * table->width, table->width);
        const float *candidate_D = table->candidate_VD + (found->row + 1) * table->width;
        found->score = steps->multiply(query->query_D, candidate_D, table->width);
        if (table->part_N)
            found->score += query->weight * table->part_N[found->row];
    }
    put_in_order(query->found, query->count, query->wanted);
    for (int64_t i = 0; i < query->wanted; i++) { /* of what isn't a number nothing is near */
        int is_found = i < query->count;
        row_K[i] = is_found ? query->found[i].row + 1 : -1;
        score_K[i] = is_found ? query->found[i].score : -FLT_MAX;
    }
}

static int find(const Steps *steps, const Table *table, Query *query_B, int64_t queries)
{
    int64_t panels = table->rows / PANEL;
    for (int64_t panel = 0; panel < panels; panel += BLOCK) {
        int64_t end = panel + BLOCK < panels ? panel + BLOCK : panels;
        for (int64_t b = 0; b < queries; b += TOGETHER) {
            int64_t count = queries - b < TOGETHER ? queries - b : TOGETHER;
            steps->scan(table, panel, end, query_B + b, count);
        }
    }
    for (int64_t b = 0; b < queries; b++)
        if (query_B[b].has_failed)
            return OUT_OF_MEMORY;
    return DONE;
}

static int search(const Steps *steps, const Table *table, const float *query_BD, const float *weight_B,
                  int64_t queries, int64_t wanted, int32_t *row_BK, float *score_BK)
{
    Query *query_B = calloc((size_t)queries, sizeof *query_B);
    int status = query_B ? DONE : OUT_OF_MEMORY;
    for (int64_t b = 0; b < queries && status == DONE; b++) {
        query_B[b].query_D = query_BD + b * table->width;
        query_B[b].weight = weight_B[b];
        status = begin(table, &query_B[b], wanted, steps->levels);
    }
    if (status == DONE)
        status = find(steps, table, query_B, queries);
    for (int64_t b = 0; b < queries && status == DONE; b++)
        end(steps, table, &query_B[b], row_BK + b * wanted, score_BK + b * wanted);
    for (int64_t b = 0; b < queries && query_B; b++) {
        free(query_B[b].short_Q);
        free(query_B[b].found);
    }
    free(query_B);
    return status;
}

static int fits(int64_t width, int64_t groups, int64_t rows, int64_t filled)
{
    return width && width <= MOST_WIDTH && groups == (width + 3) / 4 && filled % PANEL == 0 &&
           rows >= 0 && rows <= filled && filled - rows < PANEL && rows < INT32_MAX;
}

static PyObject *call_find_nearest(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "ns nD nQ nN bNQ4 iN iP i2 nV iVD nB iBD iB nK IBK IBK", arguments, count))
        return NULL;
    void **d = c.data;
    int64_t *extent = c.extent;
    int64_t rows = extent['V'] - 1, filled = extent['N'];
    if (!fits(extent['D'], extent['Q'], rows, filled) || (extent['P'] && extent['P'] != filled) ||
        extent['K'] > rows)
        return finish(&c, OUT_OF_RANGE);
    const float *bound = d[7];
    Table table = {extent['D'], extent['Q'], filled, d[4], d[5], extent['P'] ? d[6] : NULL, d[9],
                   bound[0], bound[1]};
    int status = DONE;
    Py_BEGIN_ALLOW_THREADS
    if (extent['B'] && extent['K'])
        status = search(choose_steps(extent['s']), &table, d[11], d[12], extent['B'], extent['K'],
                        d[14], d[15]);
    Py_END_ALLOW_THREADS
    return finish(&c, status);
}

/* Candidates as they are compared: short, in panels, and the rest of the last one like nothing. */
static void shorten_all(const float *candidate_VD, int64_t rows, int64_t filled, int64_t width,
                        int64_t groups, uint8_t *short_NQ4, float *scale_N, float *bound)
{
    float error = 0, longest = 0;
    memset(short_NQ4, 128, (size_t)(filled * groups * 4));
    for (int64_t row = 0; row < filled; row++) {
        scale_N[row] = NAN;
        if (row >= rows)
            continue;
        const float *candidate_D = candidate_VD + (row + 1) * width;
        uint8_t *first = short_NQ4 + row / PANEL * PANEL * groups * 4 + row % PANEL * 4;
        float largest = 0, lost = 0, length = 0;
        for (int64_t d = 0; d < width; d++)
            largest = larger(largest, fabsf(candidate_D[d]));
        scale_N[row] = largest / 127;
        for (int64_t d = 0; d < width && largest > 0; d++) {
            float number = rintf(candidate_D[d] / scale_N[row]), kept = number * scale_N[row];
            first[d / 4 * PANEL * 4 + d % 4] = (uint8_t)(number + 128);
            lost += (candidate_D[d] - kept) * (candidate_D[d] - kept);
            length += kept * kept;
        }
        error = larger(error, lost);
        longest = larger(longest, length);
    }
    bound[0] = sqrtf(error);
    bound[1] = sqrtf(longest);
}

static PyObject *call_shorten(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "nD nQ nV iVD nN BNQ4 IN I2", arguments, count))
        return NULL;
    void **d = c.data;
    int64_t *extent = c.extent, rows = extent['V'] - 1;
    if (!fits(extent['D'], extent['Q'], rows, extent['N']))
        return finish(&c, OUT_OF_RANGE);
    Py_BEGIN_ALLOW_THREADS
    shorten_all(d[3], rows, extent['N'], extent['D'], extent['Q'], d[5], d[6], d[7]);
    Py_END_ALLOW_THREADS
    return finish(&c, DONE);
}

static PyObject *call_count_bytes(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "", arguments, count))
        return NULL;
    let_go(&c);
    return PyLong_FromLongLong(choose_steps(MOST_BYTES)->bytes);
}

static PyMethodDef functions[] = {
    FUNCTION(find_nearest), FUNCTION(shorten), FUNCTION(count_bytes), {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "lsvcr._nearest", .m_methods = functions, .m_slots = slots};

PyMODINIT_FUNC PyInit__nearest(void) { return PyModuleDef_Init(&definition); }
