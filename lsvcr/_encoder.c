/* The encoder on a CPU, for some users at once. `_encoder.pyi` says what goes in and comes out;
 * nothing here keeps anything.
 *
 * Slots of all users of a side stand one behind another, without padding; only attention looks at
 * one user after the other. A runtime's graph spends two thirds of its time between products:
 * padding, taking heads apart, and starting 300 small steps (docs/decisions/0079).
 *
 * Shape suffixes: B users, I and J slots of the video and comment side, K comments of a slot, T and
 * U slots of the side that reads and the one that is read, h width of a head, D width, R rows.
 */

#include "_calls.h"

#include <math.h>
#include <stdlib.h>

enum { PANEL = 16 }; /* outputs whose weights stand together */
enum { MOST_LANES = 16, MOST_LAYERS = 16, MOST = 1 << 16 };
static const float UNREAD = -1e30f;

/* out = x times weights + bias + add, of some rows; then GELU, if it activates. Rows of x are
 * `x_stride` numbers after one another, those of `add` and `out` the filled-up width. */
typedef struct {
    const float *x, *add, *bias, *panels;
    float *out;
    int64_t depth, x_stride, width;
    int activates;
} Product;

/* What one head of one user reads: keys by number, values by slot. */
typedef struct {
    const float *key_hU, *value_Uh;
    const int32_t *order_U;
    int64_t others, padded, head_width, value_width, query_stride, value_stride, out_stride;
    int is_causal;
} Attention;

typedef struct {
    void (*multiply)(const Product *product, int64_t rows);
    void (*normalise)(const float *x, float *out, int64_t rows, int64_t stride, int64_t width,
                      const float *scale, const float *shift);
    void (*attend)(const Attention *attention, int64_t queries, const float *query, float *out,
                   const int32_t *cut_T, float *share_RU);
    float (*score)(float *hidden, const float *weight, int64_t width);
    int64_t lanes;
} Steps;

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
#define NAME(name) name##_avx512
#define LANES 16
#define WIDE 2
#define TALL 12
#include "_encoder_steps.h"
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define NAME(name) name##_avx2
#define LANES 8
#define WIDE 2
#define TALL 6
#include "_encoder_steps.h"
#pragma GCC pop_options
#endif
#define NAME(name) name##_any
#define LANES 4
#define WIDE 4
#define TALL 2
#include "_encoder_steps.h"

/* The widest steps of at most so many lanes that this processor has the instructions for. */
static const Steps *choose_steps(int64_t lanes)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (lanes >= 16 && has_avx2 && __builtin_cpu_supports("avx512f"))
        return &steps_avx512;
    if (lanes >= 8 && has_avx2)
        return &steps_avx2;
#endif
    (void)lanes;
    return &steps_any;
}

static int64_t filled(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }
static int64_t larger(int64_t one, int64_t other) { return one > other ? one : other; }

/* ---- weights ----------------------------------------------------------------------------- */

typedef struct {
    const float *bias, *panels;
    int64_t depth, width;
} Linear;

typedef struct {
    const float *scale, *shift;
} Norm;

typedef struct {
    Linear query, read, output, wide, narrow; /* `read`: of one's own input queries, too */
    Norm after, last;                         /* `after` attention, where norms come after */
} Layer;

typedef struct {
    const float *position, *start;
    Norm input;
    Layer layers[MOST_LAYERS], mix;
    Linear merge;
} Side;

typedef struct {
    int64_t width, heads, feedforward, layers, history; /* history: positions */
    int64_t is_post_norm, reads_input, mixes, pools;
    Side side[2];
    Linear hidden;
    Norm hidden_norm;
    const float *score;
} Encoder;

/* Takes the next numbers of all weights; counts on where there are none left. */
typedef struct {
    const float *weights;
    int64_t taken;
} Reader;

static const float *take_numbers(Reader *reader, int64_t count)
{
    const float *numbers = reader->weights ? reader->weights + reader->taken : NULL;
    reader->taken += count;
    return numbers;
}

static Linear take_linear(Reader *reader, int64_t depth, int64_t width)
{
    int64_t padded = filled(width, PANEL);
    Linear linear = {take_numbers(reader, padded), take_numbers(reader, padded * depth), depth, width};
    return linear;
}

static Norm take_norm(Reader *reader, int64_t width)
{
    Norm norm = {take_numbers(reader, width), take_numbers(reader, width)};
    return norm;
}

static Layer take_layer(Reader *reader, const Encoder *encoder, int reads_itself)
{
    int64_t d = encoder->width;
    Layer layer = {0};
    if (!reads_itself)
        layer.query = take_linear(reader, d, d);
    layer.read = take_linear(reader, d, (reads_itself ? 3 : 2) * d);
    layer.output = take_linear(reader, d, d);
    if (encoder->is_post_norm)
        layer.after = take_norm(reader, d);
    layer.wide = take_linear(reader, d, encoder->feedforward);
    layer.narrow = take_linear(reader, encoder->feedforward, d);
    layer.last = take_norm(reader, d);
    return layer;
}

/* Lays out an encoder over its weights; returns how many there have to be. */
static int64_t take_encoder(Encoder *encoder, const float *weights)
{
    Reader reader = {weights, 0};
    int64_t d = encoder->width;
    for (int s = 0; s < 2; s++) {
        Side *side = &encoder->side[s];
        side->position = take_numbers(&reader, encoder->history * d);
        side->start = take_numbers(&reader, d);
        side->input = take_norm(&reader, d);
        for (int64_t l = 0; l < encoder->layers; l++)
            side->layers[l] = take_layer(&reader, encoder, !encoder->reads_input);
        if (encoder->mixes) {
            side->mix = take_layer(&reader, encoder, 0);
            side->merge = take_linear(&reader, 2 * d, d);
        }
    }
    if (encoder->pools) {
        encoder->hidden = take_linear(&reader, d, 2 * d);
        encoder->hidden_norm = take_norm(&reader, 2 * d);
        encoder->score = take_numbers(&reader, 2 * d);
    }
    return reader.taken;
}

/* ---- one run ----------------------------------------------------------------------------- */

/* The slots of one side, user after user. */
typedef struct {
    int64_t *start_R1; /* where each user's begin, and where the last one's end */
    int32_t *end_T;    /* of what a slot reads of its own side */
    int32_t *order_T, *cut_T;
    float *input_TD, *state_TD;
    int64_t slots;
} Slots;

typedef struct {
    const Steps *steps;
    const Encoder *encoder;
    int64_t users, stride; /* of rows of D numbers */
    float *wide, *query, *read, *head, *share, *value, *seen;
    int32_t *order;
} Run;

static void multiply(const Run *run, Linear linear, const float *x, const float *add, float *out,
                     int activates, int64_t rows)
{
    Product product = {x, add, linear.bias, linear.panels, out, linear.depth,
                       filled(linear.depth, PANEL), filled(linear.width, PANEL), activates};
    run->steps->multiply(&product, rows);
}

/* What all slots of one side read of the other's, head by head, user by user: into `run->seen`. */
static void attend_all(const Run *run, const Slots *side, const float *query, int64_t query_stride,
                       const Slots *other, const float *key, const float *value, int64_t read_stride)
{
    const Encoder *encoder = run->encoder;
    int is_causal = side == other;
    int64_t heads = encoder->heads, width = encoder->width / heads, lanes = run->steps->lanes;
    int64_t head_padded = filled(width, lanes);
    int is_whole = head_padded == width;
    for (int64_t b = 0; b < run->users; b++) {
        int64_t first = side->start_R1[b], queries = side->start_R1[b + 1] - first;
        int64_t from = other->start_R1[b], others = other->start_R1[b + 1] - from;
        int64_t padded = filled(others, lanes);
        for (int64_t u = 0; u < padded; u++)
            run->order[u] = u >= others ? INT32_MAX : is_causal ? (int32_t)u : other->order_T[from + u];
        const int32_t *cut_T = is_causal ? side->end_T : side->cut_T;
        for (int64_t head = 0; head < heads; head++) {
            const float *own_key = key + from * read_stride + head * width;
            const float *own_value = value + from * read_stride + head * width;
            for (int64_t u = 0; u < padded; u++)
                for (int64_t h = 0; h < width; h++)
                    run->head[h * padded + u] = u < others ? own_key[u * read_stride + h] : 0;
            if (!is_whole)
                for (int64_t u = 0; u < others; u++)
                    for (int64_t h = 0; h < head_padded; h++)
                        run->value[u * head_padded + h] = h < width ? own_value[u * read_stride + h] : 0;
            float *seen = run->seen + first * run->stride + head * width;
            float *out = is_whole ? seen : run->value + others * head_padded;
            Attention attention = {
                run->head, is_whole ? own_value : run->value, run->order, others, padded, width,
                head_padded, query_stride, is_whole ? read_stride : head_padded,
                is_whole ? run->stride : head_padded, is_causal};
            run->steps->attend(&attention, queries, query + first * query_stride + head * width, out,
                               cut_T + first, run->share);
            if (!is_whole)
                for (int64_t t = 0; t < queries; t++)
                    memcpy(seen + t * run->stride, out + t * head_padded, (size_t)width * sizeof *out);
        }
    }
}

/* One layer: `x`, which reads `y`, of its own side's past or of the other side, becomes `out`, which
 * may be where `x` is. */
static void apply_layer(const Run *run, const Layer *layer, const Slots *side, const float *x,
                        const Slots *other, const float *y, float *out)
{
    const Encoder *encoder = run->encoder;
    int64_t d = encoder->width, stride = run->stride, rows = side->slots, others = other->slots;
    const float *own = x, *read_from = y;
    if (!encoder->is_post_norm) { /* scale and shift are in the weights behind */
        float *normal = run->wide;
        run->steps->normalise(x, normal, rows, stride, d, NULL, NULL);
        own = normal;
        if (x == y) {
            read_from = normal;
        } else {
            read_from = normal + rows * stride;
            run->steps->normalise(y, normal + rows * stride, others, stride, d, NULL, NULL);
        }
    }
    int64_t read_stride = filled(layer->read.width, PANEL);
    const float *query = run->read, *key = run->read + d;
    int64_t query_stride = read_stride;
    if (layer->query.bias) {
        multiply(run, layer->query, own, NULL, run->query, 0, rows);
        query = run->query;
        query_stride = stride;
        key = run->read;
    }
    multiply(run, layer->read, read_from, NULL, run->read, 0, others);
    attend_all(run, side, query, query_stride, other, key, key + d, read_stride);
    multiply(run, layer->output, run->seen, x, out, 0, rows);
    const float *before = out;
    if (encoder->is_post_norm) {
        run->steps->normalise(out, out, rows, stride, d, layer->after.scale, layer->after.shift);
    } else {
        run->steps->normalise(out, run->seen, rows, stride, d, layer->last.scale, layer->last.shift);
        before = run->seen;
    }
    multiply(run, layer->wide, before, NULL, run->wide, 1, rows);
    multiply(run, layer->narrow, run->wide, out, out, 0, rows);
    if (encoder->is_post_norm)
        run->steps->normalise(out, out, rows, stride, d, layer->last.scale, layer->last.shift);
}

/* Causal states of one side, from its inputs. */
static void encode_side(const Run *run, const Side *weights, Slots *side)
{
    const Encoder *encoder = run->encoder;
    run->steps->normalise(side->input_TD, side->input_TD, side->slots, run->stride, encoder->width,
                          weights->input.scale, weights->input.shift);
    const float *state = side->input_TD;
    for (int64_t l = 0; l < encoder->layers; l++) {
        apply_layer(run, &weights->layers[l], side, state, side,
                    encoder->reads_input ? side->input_TD : state, side->state_TD);
        state = side->state_TD;
    }
}

/* States of one side mixed with what they may know of the other's; into `merged_TD`. */
static void read_other(const Run *run, const Side *weights, const Slots *side, const Slots *other,
                       float *joined, float *merged_TD)
{
    int64_t d = run->encoder->width, stride = run->stride, joined_stride = filled(2 * d, PANEL);
    float *mixed = joined + side->slots * joined_stride;
    apply_layer(run, &weights->mix, side, side->state_TD, other, other->state_TD, mixed);
    for (int64_t t = 0; t < side->slots; t++) {
        memcpy(joined + t * joined_stride, side->state_TD + t * stride, (size_t)d * sizeof *joined);
        memcpy(joined + t * joined_stride + d, mixed + t * stride, (size_t)d * sizeof *joined);
    }
    multiply(run, weights->merge, joined, NULL, merged_TD, 0, side->slots);
}

/* A user's preference, of length 1, and how much each slot counts in it. */
static void pool(const Run *run, const float *state_TD, int64_t slots, float *hidden, float *share_I,
                 float *preference_D)
{
    const Encoder *encoder = run->encoder;
    int64_t d = encoder->width, hidden_stride = filled(2 * d, PANEL);
    float total = 0, square = 0;
    if (encoder->pools) {
        float most = -INFINITY;
        for (int64_t t = 0; t < slots; t++) {
            share_I[t] = run->steps->score(hidden + t * hidden_stride, encoder->score, 2 * d);
            most = share_I[t] > most ? share_I[t] : most;
        }
        for (int64_t t = 0; t < slots; t++)
            total += share_I[t] = expf(share_I[t] - most);
        for (int64_t t = 0; t < slots; t++)
            share_I[t] /= total;
    } else {
        share_I[slots - 1] = 1;
    }
    for (int64_t i = 0; i < d; i++)
        preference_D[i] = 0;
    for (int64_t t = 0; t < slots; t++)
        for (int64_t i = 0; i < d; i++)
            preference_D[i] += share_I[t] * state_TD[t * run->stride + i];
    for (int64_t i = 0; i < d; i++)
        square += preference_D[i] * preference_D[i];
    float length = sqrtf(square);
    length = length > 1e-6f ? length : 1e-6f;
    for (int64_t i = 0; i < d; i++)
        preference_D[i] /= length;
}

/* ---- inputs ------------------------------------------------------------------------------ */

typedef struct {
    const float *video_VD, *comment_video_VD, *comment_CD;
    int64_t videos, comments;
} Tables;

/* A side's inputs as `HistoryBatch` has them. */
typedef struct {
    const int32_t *video_BS, *order_BS, *cut_BS, *comment_BSK;
    int64_t slots, comments;
} History;

/* Counts the slots of some users, and finds where each one's begin. */
static int count_slots(const History *history, const int64_t *row_R, int64_t users, int64_t rows,
                       int64_t most, Slots *side)
{
    side->slots = 0;
    for (int64_t b = 0; b < users; b++) {
        if (row_R[b] < 0 || row_R[b] >= rows)
            return OUT_OF_RANGE;
        const int32_t *order = history->order_BS + row_R[b] * history->slots;
        int64_t count = 0;
        while (count < history->slots && order[count] < NEVER)
            count++;
        if (!count || count > most + 1)
            return OUT_OF_RANGE;
        side->start_R1[b] = side->slots;
        side->slots += count;
    }
    side->start_R1[users] = side->slots;
    return DONE;
}

/* Sums up what stands behind each slot. */
static int fill_inputs(const Run *run, const History *history, const Tables *tables,
                       const int64_t *row_R, const Side *weights, const float *video_VD, Slots *side)
{
    int64_t d = run->encoder->width;
    for (int64_t b = 0; b < run->users; b++) {
        int64_t at = row_R[b] * history->slots, first = side->start_R1[b];
        for (int64_t t = first; t < side->start_R1[b + 1]; t++) {
            int64_t slot = t - first;
            float *input = side->input_TD + t * run->stride;
            side->end_T[t] = (int32_t)slot + 1;
            side->order_T[t] = history->order_BS[at + slot];
            side->cut_T[t] = history->cut_BS[at + slot];
            if (!slot) {
                memcpy(input, weights->start, (size_t)d * sizeof *input);
                continue;
            }
            int64_t video = history->video_BS[at + slot];
            if (video < 0 || video >= tables->videos)
                return OUT_OF_RANGE;
            const float *row = video_VD + video * d, *position = weights->position + (slot - 1) * d;
            for (int64_t i = 0; i < d; i++)
                input[i] = row[i];
            if (history->comment_BSK) {
                const int32_t *comment_K = history->comment_BSK + (at + slot) * history->comments;
                int64_t count = 0;
                float *text = run->head;
                memset(text, 0, (size_t)d * sizeof *text);
                for (int64_t k = 0; k < history->comments; k++) {
                    int64_t comment = comment_K[k];
                    if (comment < 0 || comment >= tables->comments)
                        return OUT_OF_RANGE;
                    if (!comment)
                        continue;
                    const float *row_D = tables->comment_CD + comment * d;
                    count++;
                    for (int64_t i = 0; i < d; i++)
                        text[i] += row_D[i];
                }
                if (count)
                    for (int64_t i = 0; i < d; i++)
                        input[i] += text[i] / (float)count;
            }
            for (int64_t i = 0; i < d; i++)
                input[i] += position[i];
        }
    }
    return DONE;
}

typedef struct {
    float *preference_BD, *share_BI, *state_BJD; /* state: NULL where it isn't asked for */
} Outputs;

static int encode(const Steps *steps, const Encoder *encoder, const Tables *tables,
                  const History history[2], int64_t rows, const int64_t *row_R, int64_t users,
                  Outputs outputs)
{
    int64_t d = encoder->width, stride = filled(d, PANEL);
    Slots side[2];
    int64_t *starts = malloc((size_t)(2 * (users + 1)) * sizeof *starts);
    if (!starts)
        return OUT_OF_MEMORY;
    side[0].start_R1 = starts;
    side[1].start_R1 = starts + users + 1;
    for (int s = 0; s < 2; s++)
        if (count_slots(&history[s], row_R, users, rows, encoder->history, &side[s])) {
            free(starts);
            return OUT_OF_RANGE;
        }
    int64_t most = larger(side[0].slots, side[1].slots), both = side[0].slots + side[1].slots;
    int64_t longest = filled(encoder->history + 1, MOST_LANES);
    int64_t head = filled(d / encoder->heads, MOST_LANES);
    int64_t wide = larger(filled(encoder->feedforward, PANEL), filled(2 * d, PANEL));
    int64_t counts[] = {
        both * stride,                               /* inputs */
        both * stride,                               /* states */
        most * larger(wide, 2 * stride),             /* wide, or two sides' rows */
        most * stride,                               /* query */
        most * filled(3 * d, PANEL),                 /* read */
        larger(head * longest, d),                   /* head: keys, or a text */
        4 * longest,                                 /* share */
        2 * longest * head,                          /* value, and what is read of it */
        most * stride,                               /* seen */
        most * (filled(2 * d, PANEL) + stride),      /* joined and mixed */
        most * stride,                               /* merged */
    };
    enum { PARTS = sizeof counts / sizeof *counts };
    int64_t numbers = 0;
    for (int i = 0; i < PARTS; i++)
        numbers += filled(counts[i], MOST_LANES);
    int64_t integers = 3 * both + longest;
    float *room = malloc((size_t)(numbers + integers + 2 * MOST_LANES) * sizeof *room);
    if (!room) {
        free(starts);
        return OUT_OF_MEMORY;
    }
    float *part[PARTS];
    part[0] = (float *)(((uintptr_t)room + 63) & ~(uintptr_t)63);
    for (int i = 1; i < PARTS; i++)
        part[i] = part[i - 1] + filled(counts[i - 1], MOST_LANES);
    int32_t *whole = (int32_t *)(part[PARTS - 1] + filled(counts[PARTS - 1], MOST_LANES));
    Run run = {steps,   encoder, users,   stride,  part[2], part[3],
               part[4], part[5], part[6], part[7], part[8], whole + 3 * both};
    int status = DONE;
    for (int s = 0; s < 2 && status == DONE; s++) {
        int64_t before = s ? side[0].slots : 0;
        side[s].input_TD = part[0] + before * stride;
        side[s].state_TD = part[1] + before * stride;
        side[s].end_T = whole + 3 * before;
        side[s].order_T = side[s].end_T + side[s].slots;
        side[s].cut_T = side[s].order_T + side[s].slots;
        status = fill_inputs(&run, &history[s], tables, row_R, &encoder->side[s],
                             s ? tables->comment_video_VD : tables->video_VD, &side[s]);
    }
    if (status == DONE) {
        for (int s = 0; s < 2; s++)
            encode_side(&run, &encoder->side[s], &side[s]);
        if (outputs.state_BJD) {
            const float *state = side[1].state_TD;
            if (encoder->mixes) {
                read_other(&run, &encoder->side[1], &side[1], &side[0], part[9], part[10]);
                state = part[10];
            }
            for (int64_t b = 0; b < users; b++)
                for (int64_t t = side[1].start_R1[b]; t < side[1].start_R1[b + 1]; t++)
                    memcpy(outputs.state_BJD +
                               (row_R[b] * history[1].slots + t - side[1].start_R1[b]) * d,
                           state + t * stride, (size_t)d * sizeof *state);
        }
        const float *state = side[0].state_TD;
        if (encoder->mixes) {
            read_other(&run, &encoder->side[0], &side[0], &side[1], part[9], part[10]);
            state = part[10];
        }
        if (encoder->pools) {
            multiply(&run, encoder->hidden, state, NULL, run.wide, 0, side[0].slots);
            steps->normalise(run.wide, run.wide, side[0].slots, filled(2 * d, PANEL), 2 * d,
                             encoder->hidden_norm.scale, encoder->hidden_norm.shift);
        }
        for (int64_t b = 0; b < users; b++) {
            int64_t first = side[0].start_R1[b];
            pool(&run, state + first * stride, side[0].start_R1[b + 1] - first,
                 run.wide + first * filled(2 * d, PANEL),
                 outputs.share_BI + row_R[b] * history[0].slots, outputs.preference_BD + row_R[b] * d);
        }
    }
    free(room);
    free(starts);
    return status;
}

/* ---- for Python -------------------------------------------------------------------------- */

/* What both functions begin with: width, heads, feedforward, layers, positions; whether norms come
 * after, keys are of the input, sides mix, and states are pooled. */
#define SHAPE "nD nH nF nL nP na nb nc ne"

static Encoder shape_of(const Call *c)
{
    const int64_t *extent = c->extent;
    Encoder encoder = {.width = extent['D'],       .heads = extent['H'],     .feedforward = extent['F'],
                       .layers = extent['L'],      .history = extent['P'],   .is_post_norm = extent['a'],
                       .reads_input = extent['b'], .mixes = extent['c'],     .pools = extent['e']};
    return encoder;
}

static int is_possible(const Encoder *encoder)
{
    return encoder->width && encoder->heads && encoder->width % encoder->heads == 0 &&
           encoder->layers <= MOST_LAYERS && encoder->width <= MOST && encoder->feedforward <= MOST &&
           encoder->history <= MOST;
}

static PyObject *call_count_weights(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, SHAPE, arguments, count))
        return NULL;
    Encoder encoder = shape_of(&c);
    if (!is_possible(&encoder))
        return finish(&c, OUT_OF_RANGE);
    let_go(&c);
    return PyLong_FromLongLong(take_encoder(&encoder, NULL));
}

static PyObject *call_count_lanes(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c, "", arguments, count))
        return NULL;
    let_go(&c);
    return PyLong_FromLongLong(choose_steps(MOST_LANES)->lanes);
}

static PyObject *call_encode(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Call c;
    if (take(&c,
             SHAPE " nl iW nV iVD iVD nC iCD nB nI nJ nK iBI iBI iBI iBJ iBJK iBJ iBJ qR nS IBD IBI IBSD",
             arguments, count))
        return NULL;
    void **d = c.data;
    int64_t *extent = c.extent;
    Encoder encoder = shape_of(&c);
    if (!is_possible(&encoder) || take_encoder(&encoder, d[10]) != extent['W'] ||
        (extent['S'] && extent['S'] != extent['J']))
        return finish(&c, OUT_OF_RANGE);
    Tables tables = {d[12], d[13], d[15], extent['V'], extent['C']};
    History history[2] = {{d[20], d[21], d[22], NULL, extent['I'], 0},
                          {d[23], d[25], d[26], d[24], extent['J'], extent['K']}};
    Outputs outputs = {d[29], d[30], extent['S'] ? d[31] : NULL};
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = encode(choose_steps(extent['l']), &encoder, &tables, history, extent['B'], d[27],
                    extent['R'], outputs);
    Py_END_ALLOW_THREADS
    return finish(&c, status);
}

static PyMethodDef functions[] = {
    FUNCTION(encode), FUNCTION(count_lanes), FUNCTION(count_weights), {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "lsvcr._encoder", .m_methods = functions, .m_slots = slots};

PyMODINIT_FUNC PyInit__encoder(void) { return PyModuleDef_Init(&definition); }
