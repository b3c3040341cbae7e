/* Pooled lookup and fused update of embedding tables on a CPU, for one worker's tables.
 *
 * FBGEMM's CPU backward runs on one thread. Here each call treats some tables only, so that a
 * caller can give every core its own. Duplicates of an id are summed before the update, in the
 * order of the rows of the batch, so the result does not depend on the number of threads.
 *
 * T tables, B rows of the batch, D width of a table, N lookups of a table.
 * indices: ids of table 0 for rows 0 … B-1, then of table 1 …; offsets: (T * B + 1), where each
 * row's ids begin; out, grad: (B, width), table t from column columns[t] on.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    float *weights;    /* (rows, dim) */
    float *state;      /* Adagrad: (rows, dim); row-wise Adagrad: (rows,); SGD: unused */
    int64_t rows;
    int64_t dim;
    int64_t column;    /* first column in out and grad */
    int64_t first_row; /* of the whole table, where this is a part of one */
    int64_t field;     /* whose ids are looked up (shared memory below) */
} Table;

enum { SGD = 0, ADAGRAD = 1, ROWWISE_ADAGRAD = 2 };
enum { AHEAD = 12 }; /* lookups between a prefetch and its use */

/* Calls CALL(D) with the table's width D: known widths let the compiler unroll. */
#define WITH_WIDTH(table, CALL)                                                                    \
    switch ((table)->dim) {                                                                        \
    case 8: CALL(8); break;                                                                        \
    case 16: CALL(16); break;                                                                      \
    case 32: CALL(32); break;                                                                      \
    case 64: CALL(64); break;                                                                      \
    case 128: CALL(128); break;                                                                    \
    default: CALL((table)->dim);                                                                   \
    }

static inline void lookup_table(const Table *t, int64_t dim, int64_t B, int64_t width,
                                const int64_t *indices, const int64_t *offsets, int mean,
                                float *restrict out)
{
    const int64_t last = offsets[B];
    for (int64_t b = 0; b < B; b++) {
        float *restrict to = out + b * width + t->column;
        const int64_t begin = offsets[b], end = offsets[b + 1];
        for (int64_t j = 0; j < dim; j++) to[j] = 0.0f;
        for (int64_t i = begin; i < end; i++) {
            if (i + AHEAD < last) __builtin_prefetch(t->weights + indices[i + AHEAD] * dim);
            const float *restrict row = t->weights + indices[i] * dim;
#pragma omp simd
            for (int64_t j = 0; j < dim; j++) to[j] += row[j];
        }
        if (mean && end - begin > 1) {
            const float scale = 1.0f / (float)(end - begin);
            for (int64_t j = 0; j < dim; j++) to[j] *= scale;
        }
    }
}

/* Sums of the looked-up rows. Returns -1, or the position in indices of an id outside its table:
 * nothing has been read from there. */
int64_t ctrdist_lookup(const Table *tables, int64_t first, int64_t end, int64_t B, int64_t width,
                       const int64_t *indices, const int64_t *offsets, int mean, float *out)
{
    for (int64_t k = first; k < end; k++) {
        const Table *t = tables + k;
        const int64_t *own = offsets + k * B;
        for (int64_t i = own[0]; i < own[B]; i++)
            if ((uint64_t)indices[i] >= (uint64_t)t->rows) return i;
#define LOOK_UP(D) lookup_table(t, D, B, width, indices, own, mean, out)
        WITH_WIDTH(t, LOOK_UP)
    }
    return -1;
}

typedef struct {
    uint32_t id;
    uint32_t row; /* of the batch */
} Pair;

/* Stable radix sort by id; the result is in the array that is returned: pairs or spare. */
static Pair *sort_pairs(Pair *pairs, Pair *spare, int64_t n, uint64_t rows)
{
    enum { BITS = 11, DIGITS = 1 << BITS };
    for (int shift = 0; shift < 32 && (rows - 1) >> shift; shift += BITS) {
        uint32_t starts[DIGITS] = {0};
        uint32_t sum = 0;
        for (int64_t i = 0; i < n; i++) starts[(pairs[i].id >> shift) & (DIGITS - 1)]++;
        for (int d = 0; d < DIGITS; d++) {
            const uint32_t count = starts[d];
            starts[d] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < n; i++)
            spare[starts[(pairs[i].id >> shift) & (DIGITS - 1)]++] = pairs[i];
        Pair *other = pairs;
        pairs = spare;
        spare = other;
    }
    return pairs;
}

static inline void update_row(float *restrict w, float *restrict state, const float *restrict g,
                              int64_t dim, int algorithm, float lr, float eps)
{
    if (algorithm == ADAGRAD) {
#pragma omp simd
        for (int64_t j = 0; j < dim; j++) {
            state[j] += g[j] * g[j];
            w[j] -= lr * g[j] / (sqrtf(state[j]) + eps);
        }
        return;
    }
    float scale = lr;
    if (algorithm == ROWWISE_ADAGRAD) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < dim; j++) sum += g[j] * g[j];
        state[0] += sum / (float)dim;
        scale = lr / (sqrtf(state[0]) + eps);
    }
#pragma omp simd
    for (int64_t j = 0; j < dim; j++) w[j] -= scale * g[j];
}

static inline void update_table(const Table *t, int64_t dim, const Pair *pairs, int64_t n,
                                const int64_t *offsets, int64_t width, int algorithm, float lr,
                                float eps, const float *grad, float *restrict sum)
{
    const int64_t state_dim = algorithm == ADAGRAD ? dim : algorithm == ROWWISE_ADAGRAD ? 1 : 0;
    int64_t i = 0;
    while (i < n) {
        const uint32_t id = pairs[i].id;
        for (int64_t j = 0; j < dim; j++) sum[j] = 0.0f;
        for (; i < n && pairs[i].id == id; i++) {
            if (i + AHEAD < n) {
                const Pair *p = pairs + i + AHEAD;
                __builtin_prefetch(t->weights + (int64_t)p->id * dim, 1);
                if (state_dim) __builtin_prefetch(t->state + (int64_t)p->id * state_dim, 1);
                __builtin_prefetch(grad + (int64_t)p->row * width + t->column);
            }
            const int64_t b = pairs[i].row;
            const float *restrict g = grad + b * width + t->column;
            const float scale = offsets ? 1.0f / (float)(offsets[b + 1] - offsets[b]) : 1.0f;
#pragma omp simd
            for (int64_t j = 0; j < dim; j++) sum[j] += scale * g[j];
        }
        update_row(t->weights + (int64_t)id * dim, t->state + (int64_t)id * state_dim, sum, dim,
                   algorithm, lr, eps);
    }
}

/* One optimiser step on n pairs, which it sorts. spare, sum: room for n pairs, for a row. offsets:
 * (B + 1) of the table, for the mean of each row's ids; NULL for their sum. */
static void step_table(const Table *t, Pair *pairs, Pair *spare, int64_t n, const int64_t *offsets,
                       int64_t width, int algorithm, float lr, float eps, const float *grad,
                       float *sum)
{
    const Pair *sorted = sort_pairs(pairs, spare, n, (uint64_t)t->rows);
#define UPDATE(D) update_table(t, D, sorted, n, offsets, width, algorithm, lr, eps, grad, sum)
    WITH_WIDTH(t, UPDATE)
}

/* One optimiser step on the rows that were looked up. Returns 0, or 1 when memory ran out before
 * anything was changed. Ids have passed ctrdist_lookup. */
int ctrdist_update(const Table *tables, int64_t first, int64_t end, int64_t B, int64_t width,
                   const int64_t *indices, const int64_t *offsets, int mean, int algorithm,
                   float lr, float eps, const float *grad)
{
    int64_t most = 1, widest = 1;
    for (int64_t k = first; k < end; k++) {
        const int64_t n = offsets[(k + 1) * B] - offsets[k * B];
        if (n > most) most = n;
        if (tables[k].dim > widest) widest = tables[k].dim;
    }
    Pair *buffer = malloc(2 * (size_t)most * sizeof(Pair));
    float *sum = malloc((size_t)widest * sizeof(float));
    const int failed = !buffer || !sum;
    for (int64_t k = first; k < end && !failed; k++) {
        const int64_t *own = offsets + k * B;
        int64_t n = 0;
        for (int64_t b = 0; b < B; b++)
            for (int64_t i = own[b]; i < own[b + 1]; i++)
                buffer[n++] = (Pair){(uint32_t)indices[i], (uint32_t)b};
        step_table(tables + k, buffer, buffer + most, n, mean ? own : NULL, width, algorithm, lr,
                   eps, grad, sum);
    }
    free(buffer);
    free(sum);
    return failed;
}

/* Lookup for all workers of one machine, in memory that all of them have mapped. Every field has
 * one id per row. W workers, S rows of the one that has most, F fields.
 * ids: (W, F, S), -1 where a worker has no row; out, grad: (W, S, width). A worker serves all ids
 * that fall into its parts of tables, for whichever worker: it writes the rows into out, and
 * updates them from grad. No two parts cover the same weights, so no two workers write the same
 * place. */

/* Copies a worker's ids (F, n) to (F, S) in shared memory. Returns -1, or the position of an id that
 * is outside its table. */
int64_t ctrdist_publish(const int32_t *given, const int64_t *rows, int64_t F, int64_t n, int64_t S,
                        int32_t *ids)
{
    for (int64_t f = 0; f < F; f++) {
        const int32_t *from = given + f * n;
        int32_t *to = ids + f * S;
        uint32_t most = 0;
        for (int64_t b = 0; b < n; b++) most = (uint32_t)from[b] > most ? (uint32_t)from[b] : most;
        if (n && most >= (uint64_t)rows[f])
            for (int64_t b = 0; b < n; b++)
                if ((uint32_t)from[b] >= (uint64_t)rows[f]) return f * n + b;
        memcpy(to, from, (size_t)n * sizeof(int32_t));
        for (int64_t b = n; b < S; b++) to[b] = -1;
    }
    return -1;
}

static inline void fetch_rows(const Table *t, int64_t dim, const Pair *pairs, int64_t n,
                              int64_t width, float *restrict out)
{
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n) __builtin_prefetch(t->weights + (int64_t)pairs[i + AHEAD].id * dim);
        const float *restrict row = t->weights + (int64_t)pairs[i].id * dim;
        float *restrict to = out + (int64_t)pairs[i].row * width + t->column;
#pragma omp simd
        for (int64_t j = 0; j < dim; j++) to[j] = row[j];
    }
}

/* Finds the ids that fall into parts first … end - 1, keeps them for ctrdist_apply in
 * pairs (parts, W * S) and counts (parts), and writes their rows. */
void ctrdist_serve(const Table *parts, int64_t first, int64_t end, int64_t W, int64_t F, int64_t S,
                   int64_t width, const int32_t *ids, Pair *pairs, int64_t *counts, float *out)
{
    for (int64_t k = first; k < end; k++) {
        const Table *t = parts + k;
        Pair *found = pairs + k * W * S;
        int64_t n = 0;
        for (int64_t w = 0; w < W; w++) {
            const int32_t *own = ids + (w * F + t->field) * S;
            for (int64_t b = 0; b < S; b++) { /* without a branch: half of the ids are another's */
                const int64_t id = (int64_t)own[b] - t->first_row;
                found[n] = (Pair){(uint32_t)id, (uint32_t)(w * S + b)};
                n += id >= 0 && id < t->rows;
            }
        }
        counts[k] = n;
#define FETCH(D) fetch_rows(t, D, found, n, width, out)
        WITH_WIDTH(t, FETCH)
    }
}

/* One optimiser step on what ctrdist_serve has found. Returns 0, or 1 without memory. */
int ctrdist_apply(const Table *parts, int64_t first, int64_t end, int64_t capacity, int64_t width,
                  Pair *pairs, const int64_t *counts, int algorithm, float lr, float eps,
                  const float *grad)
{
    int64_t most = 1, widest = 1;
    for (int64_t k = first; k < end; k++) {
        if (counts[k] > most) most = counts[k];
        if (parts[k].dim > widest) widest = parts[k].dim;
    }
    Pair *spare = malloc((size_t)most * sizeof(Pair));
    float *sum = malloc((size_t)widest * sizeof(float));
    const int failed = !spare || !sum;
    for (int64_t k = first; k < end && !failed; k++) {
        step_table(parts + k, pairs + k * capacity, spare, counts[k], NULL, width, algorithm, lr,
                   eps, grad, sum);
    }
    free(spare);
    free(sum);
    return failed;
}
