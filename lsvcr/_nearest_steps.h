/* Comparing in short numbers, included once for each set of instructions: `NAME(Sums)` of a panel's
 * candidates, which `start`, `add` 4 numbers of each, and `reach` tells which of them may be among
 * the best; `AT_ONCE` queries whose sums fit into the processor's registers.
 *
 * Shape suffixes as in _nearest.c.
 */

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 8")

/* So many queries, a constant wherever this is called. */
INLINE void NAME(scan_some)(const Table *table, int64_t panel, int64_t end, Query *query_B,
                            const int count)
{
    int64_t groups = table->groups;
    for (; panel < end; panel++) {
        NAME(Sums) sums[AT_ONCE];
        const uint8_t *row = table->short_NQ4 + panel * PANEL * 4 * groups;
        int64_t first = panel * PANEL;
        const float *part = table->part_N ? table->part_N + first : NULL;
        UNROLLED
        for (int b = 0; b < count; b++)
            sums[b] = NAME(start)(query_B[b].offset);
        for (int64_t g = 0; g < groups; g++) {
            UNROLLED
            for (int b = 0; b < count; b++)
                NAME(add)(&sums[b], row + g * PANEL * 4, query_B[b].short_Q[g]);
        }
        float score_B[AT_ONCE][PANEL];
        uint32_t reached_B[AT_ONCE], any = 0;
        UNROLLED
        for (int b = 0; b < count; b++) {
            const float *scale = table->scale_N + first;
            reached_B[b] = NAME(reach)(&sums[b], &query_B[b], scale, part, score_B[b]);
            any |= reached_B[b];
        }
        for (int b = 0; b < count && any; b++)
            for (uint32_t reached = reached_B[b]; reached; reached &= reached - 1) {
                int i = __builtin_ctz(reached);
                note(&query_B[b], score_B[b][i], first + i);
            }
    }
}

static void NAME(scan)(const Table *table, int64_t panel, int64_t end, Query *query_B, int64_t count)
{
    for (; count >= AT_ONCE; count -= AT_ONCE, query_B += AT_ONCE)
        NAME(scan_some)(table, panel, end, query_B, AT_ONCE);
    for (; count >= 2; count -= 2, query_B += 2)
        NAME(scan_some)(table, panel, end, query_B, 2);
    if (count)
        NAME(scan_some)(table, panel, end, query_B, 1);
}

static float NAME(multiply)(const float *one, const float *other, int64_t width)
{
    return inner_product(one, other, width);
}

static const Steps NAME(steps) = {NAME(scan), NAME(multiply), LEVELS, BYTES};

#undef INLINE
#undef UNROLLED
#undef NAME
#undef LEVELS
#undef BYTES
#undef AT_ONCE
