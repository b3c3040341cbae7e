/* Parses raw text into columns in one pass, some rows at a time, so that they stay in the cache.
 *
 * It reads plain text only, and refuses a block that contains anything else. Python then reads that
 * block with slower code, which covers all cases and reports errors. */
#define _DEFAULT_SOURCE
#include "string_table.h"

#include <math.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* A whole number in at most 18 digits. */
static inline int parse_integer(const uint8_t *at, int32_t length, const uint8_t *limit,
                                int64_t *out)
{
    const int negative = length > 1 && *at == '-';
    uint64_t value = 0;
    at += negative;
    length -= negative;
    if (length < 1 || length > 18) return 0;
    if (length <= 8) { /* eight digits at once, without a branch for each length */
        const uint64_t zeros = 0x3030303030303030ULL;
        uint64_t x = word(at, (uint32_t)length, limit) << (64 - 8 * length);
        x |= zeros >> (8 * length - 1) >> 1;
        if (((x + 0x4646464646464646ULL) | (x - zeros)) & 0x8080808080808080ULL) return 0;
        x = (x & 0x0F0F0F0F0F0F0F0FULL) * 2561 >> 8;
        x = (x & 0x00FF00FF00FF00FFULL) * 6553601 >> 16;
        value = (x & 0x0000FFFF0000FFFFULL) * 42949672960001ULL >> 32;
    } else
        for (int32_t i = 0; i < length; i++) {
            if (at[i] < '0' || at[i] > '9') return 0;
            value = value * 10 + (at[i] - '0');
        }
    *out = negative ? -(int64_t)value : (int64_t)value;
    return 1;
}

/* A decimal whose digits and power of ten are exact in a double: one operation rounds it right
 * (Clinger 1990). */
static int parse_number(const uint8_t *at, int32_t length, double *out)
{
    static const double power[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const uint8_t *end = at + length;
    const int negative = length > 1 && *at == '-';
    uint64_t value = 0;
    int digits = 0, exponent = 0, any = 0;
    for (at += negative; at < end && *at >= '0' && *at <= '9'; at++, any = 1) {
        value = value * 10 + (*at - '0');
        if ((digits += value > 0) > 15) return 0;
    }
    if (!any) return 0;
    if (at < end && *at == '.') {
        const uint8_t *point = at++;
        for (; at < end && *at >= '0' && *at <= '9'; at++) {
            value = value * 10 + (*at - '0');
            if ((digits += value > 0) > 15) return 0;
        }
        if (at - point < 2 || at - point > 1000) return 0;
        exponent = (int)(point + 1 - at);
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        const int less = ++at < end && *at == '-';
        if (less || (at < end && *at == '+')) at++;
        if (end - at < 1 || end - at > 3) return 0;
        int shift = 0;
        for (; at < end && *at >= '0' && *at <= '9'; at++) shift = shift * 10 + (*at - '0');
        exponent += less ? -shift : shift;
    }
    if (at != end || exponent < -22 || exponent > 22) return 0;
    const double size =
        exponent < 0 ? (double)value / power[-exponent] : (double)value * power[exponent];
    *out = negative ? -size : size;
    return 1;
}

/* true and false in any capitals, as 1 and 0. */
static int parse_word(const uint8_t *at, int32_t length, double *out)
{
    const char *word = length == 4 ? "true" : length == 5 ? "false" : NULL;
    if (word == NULL) return 0;
    for (int32_t i = 0; i < length; i++)
        if ((at[i] | 0x20) != word[i]) return 0;
    *out = length == 4;
    return 1;
}

/* ---- columns ---- */

enum kind { IGNORE, LABEL, INTEGER, NUMBER, TIMESTAMP, CATEGORICAL, LIST };

typedef struct {
    const uint8_t *at;
    int64_t length;
} text;

typedef struct {
    int64_t kind;
    string_table *dictionary; /* of CATEGORICAL and LIST */
    void *out;         /* (n,) float32 | float64 | float64 | int64 | int32; LIST: (n + 1,) int32 */
    int32_t *ids;      /* of LIST */
    int64_t *hashes;   /* (n,) of a CATEGORICAL, or NULL */
    int64_t empty;     /* CATEGORICAL: a missing value is the empty string */
    int64_t separator; /* LIST: between two values */
    int64_t most;      /* LIST: values of a row */
    double threshold;  /* LABEL: NaN for none */
    const text *missing; /* texts that stand for no value */
    int64_t missing_count;
} column;

typedef struct {
    uint64_t hash_key[2], row_key[2];
    uint64_t *row_hash; /* (n,), or NULL */
    int64_t separator, C;
    int64_t blank; /* a blank before or after a value is no part of it */
    const int64_t *hashed; /* (H,) the columns of the row hash, in the order of the key */
    int64_t H;
} layout;

/* ROWS values of a column. */
typedef struct {
    const uint8_t *at[ROWS];
    int32_t length[ROWS]; /* ABSENT where missing */
} values;

/* What is in a text: 1 NUL, 2 a byte beyond ASCII, 4 a carriage return, 8 the quote; and how many
 * lines. quote: 256 for none. */
int ctrdist_scan_inspect(const uint8_t *raw, int64_t size, int32_t quote, int64_t *lines)
{
    uint8_t nul = 0, high = 0, cr = 0, quoted = 0;
    *lines = 0;
    for (int64_t begin = 0; begin < size; begin += 128) {
        const int64_t end = begin + 128 < size ? begin + 128 : size;
        uint8_t count = 0;
        for (int64_t i = begin; i < end; i++) {
            nul |= raw[i] == 0;
            high |= raw[i];
            cr |= raw[i] == '\r';
            quoted |= raw[i] == (uint8_t)quote;
            count += raw[i] == '\n';
        }
        *lines += count;
    }
    return nul | (high >> 7) << 1 | cr << 2 | (quoted && quote < 256) << 3;
}

/* Where in 64 bytes the separator or a line's end is. */
static inline uint64_t ends_of(const uint8_t *at, uint8_t separator)
{
    uint64_t found = 0;
#if defined(__AVX2__)
    for (int half = 0; half < 2; half++) {
        const __m256i bytes = _mm256_loadu_si256((const __m256i *)(at + 32 * half));
        const __m256i hit =
            _mm256_or_si256(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8((char)separator)),
                            _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\n')));
        found |= (uint64_t)(uint32_t)_mm256_movemask_epi8(hit) << 32 * half;
    }
#else
    for (int i = 0; i < 64; i++) found |= (uint64_t)(at[i] == separator || at[i] == '\n') << i;
#endif
    return found;
}

static int read_categorical(const column *c, const layout *l, values *v, int64_t first,
                            int64_t rows, const uint8_t *limit)
{
    if (c->hashes)
        for (int64_t i = 0; i < rows; i++)
            c->hashes[first + i] = (int64_t)siphash(
                l->hash_key, v->at[i], v->length[i] < 0 ? 0 : (uint32_t)v->length[i], limit);
    if (c->empty)
        for (int64_t i = 0; i < rows; i++) v->length[i] = v->length[i] < 0 ? 0 : v->length[i];
    return string_table_look_up(c->dictionary, v->at, v->length, rows, limit, (int32_t *)c->out + first);
}

static int read_lists(const column *c, const values *v, int64_t first, int64_t rows,
                      const uint8_t *limit)
{
    int32_t *ends = (int32_t *)c->out + first;
    if (first == 0) ends[0] = 0;
    int32_t *ids = c->ids + ends[0];
    values parts;
    int64_t waiting = 0;
    for (int64_t i = 0; i < rows; i++) {
        const uint8_t *at = v->at[i], *end = at + (v->length[i] < 0 ? 0 : v->length[i]), *stop;
        int64_t count = 0;
        for (; at < end && count < c->most; at = stop + 1) {
            stop = memchr(at, (int)c->separator, (size_t)(end - at));
            if (stop == NULL) stop = end;
            if (stop == at) continue;
            if (waiting == ROWS) {
                if (string_table_look_up(c->dictionary, parts.at, parts.length, ROWS, limit, ids)) return -1;
                ids += ROWS;
                waiting = 0;
            }
            parts.at[waiting] = at;
            parts.length[waiting++] = (int32_t)(stop - at);
            count++;
        }
        ends[i + 1] = ends[i] + (int32_t)count;
    }
    return string_table_look_up(c->dictionary, parts.at, parts.length, waiting, limit, ids);
}

static int read_numbers(const column *c, const values *v, int64_t first, int64_t rows,
                        const uint8_t *limit)
{
    int good = 1;
    if (c->kind == TIMESTAMP) {
        int64_t *out = (int64_t *)c->out + first;
        for (int64_t i = 0; i < rows; i++)
            good &= parse_integer(v->at[i], v->length[i], limit, out + i);
    } else if (c->kind == LABEL) {
        float *out = (float *)c->out + first;
        const int plain = isnan(c->threshold);
        for (int64_t i = 0; i < rows; i++) {
            double value = 0;
            good &= parse_number(v->at[i], v->length[i], &value) ||
                    parse_word(v->at[i], v->length[i], &value);
            good &= !plain || value == 0 || value == 1;
            out[i] = (float)(plain ? value : value >= c->threshold);
        }
    } else {
        double *out = (double *)c->out + first;
        for (int64_t i = 0; i < rows; i++) {
            int64_t whole = 0;
            double word = 0;
            if (v->length[i] == ABSENT)
                out[i] = NAN;
            else if (c->kind == NUMBER)
                good &= parse_number(v->at[i], v->length[i], out + i) ||
                        parse_word(v->at[i], v->length[i], out + i);
            else {
                good &= parse_integer(v->at[i], v->length[i], limit, &whole) ||
                        parse_word(v->at[i], v->length[i], &word);
                out[i] = (double)whole + word;
            }
        }
    }
    return good ? 0 : 1;
}

static void strip_blanks(values *v, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        for (; v->length[i] > 0 && v->at[i][0] == ' '; v->at[i]++) v->length[i]--;
        while (v->length[i] > 0 && v->at[i][v->length[i] - 1] == ' ') v->length[i]--;
    }
}

static void find_missing(const column *c, values *v, int64_t rows)
{
    for (int64_t m = 0; m < c->missing_count; m++) {
        const text missing = c->missing[m];
        for (int64_t i = 0; i < rows; i++)
            if (v->length[i] == missing.length &&
                (missing.length == 0 || memcmp(v->at[i], missing.at, (size_t)missing.length) == 0))
                v->length[i] = ABSENT;
    }
}

/* rows ≤ ROWS rows of a text. */
typedef struct {
    const uint8_t *raw;
    int64_t size;
    const uint32_t *ends; /* (rows, C): where in `raw` each value ends */
    uint32_t begin;       /* where the first one begins */
    int64_t first, rows;  /* the first row */
} lines;

/* The values of column c. */
static void find_values(const layout *l, const lines *t, int64_t c, values *v)
{
    const int64_t C = l->C;
    for (int64_t i = 0; i < t->rows; i++) {
        const int64_t at = i * C + c;
        const uint32_t from = at ? t->ends[at - 1] + 1 : t->begin;
        v->at[i] = t->raw + from;
        v->length[i] = (int32_t)(t->ends[at] - from);
    }
    if (c == C - 1)
        for (int64_t i = 0; i < t->rows; i++)
            if (v->length[i] > 0 && v->at[i][v->length[i] - 1] == '\r') v->length[i]--;
}

static void hash_rows(const column *columns, const layout *l, const lines *t)
{
    uint64_t *hash = l->row_hash + t->first;
    values v;
    for (int64_t i = 0; i < t->rows; i++) hash[i] = 0xCBF29CE484222325ULL;
    for (int64_t k = 0; k < l->H; k++) {
        find_values(l, t, l->hashed[k], &v);
        if (l->blank) strip_blanks(&v, t->rows);
        find_missing(columns + l->hashed[k], &v, t->rows);
        for (int64_t i = 0; i < t->rows; i++) {
            const uint32_t length = v.length[i] < 0 ? 0 : (uint32_t)v.length[i];
            const uint64_t one = siphash(l->row_key, v.at[i], length, t->raw + t->size);
            hash[i] = (hash[i] ^ one) * 0x100000001B3ULL;
        }
    }
}

static int read_rows(const column *columns, const layout *l, const lines *t)
{
    const uint8_t *end = t->raw + t->size;
    values v;
    if (l->row_hash) hash_rows(columns, l, t);
    for (int64_t c = 0; c < l->C; c++) {
        const column *column = columns + c;
        if (column->kind == IGNORE) continue;
        find_values(l, t, c, &v);
        if (l->C == 1) /* a blank line is no row */
            for (int64_t i = 0; i < t->rows; i++)
                if (v.length[i] == 0) return 1;
        if (l->blank) strip_blanks(&v, t->rows);
        find_missing(column, &v, t->rows);
        int failed = 0;
        if (column->kind == CATEGORICAL)
            failed = read_categorical(column, l, &v, t->first, t->rows, end);
        else if (column->kind == LIST)
            failed = read_lists(column, &v, t->first, t->rows, end);
        else
            failed = read_numbers(column, &v, t->first, t->rows, end);
        if (failed) return failed;
    }
    return 0;
}

/* Reads a text of n lines, the last of which has its end, into (C,) columns. Carriage returns stand
 * before line ends only.
 *
 * Returns 0; 1 where a line or value is not plain: the dictionaries and outputs then hold parts
 * of the text; -1 without memory. */
int ctrdist_scan(const uint8_t *raw, int64_t size, int64_t n, const column *columns,
                 const layout *l)
{
    const int64_t batch = ROWS * l->C;
    uint32_t *ends = malloc((size_t)(batch + 64) * sizeof(uint32_t));
    if (ends == NULL) return -1;
    int64_t first = 0, found = 0;
    uint32_t begin = 0;
    int failed = 0;
    for (int64_t at = 0; at < size && !failed; at += 64) {
        uint8_t tail[64] = {0};
        const uint8_t *chunk = raw + at;
        if (size - at < 64) chunk = memcpy(tail, chunk, (size_t)(size - at));
        for (uint64_t hits = ends_of(chunk, (uint8_t)l->separator); hits; hits &= hits - 1)
            ends[found++] = (uint32_t)at + (uint32_t)__builtin_ctzll(hits);
        const int last = at + 64 >= size;
        while (!failed && (found >= batch || (last && found))) {
            const int64_t rows = found < batch ? found / l->C : ROWS, taken = rows * l->C;
            failed = rows == 0 || first + rows > n;
            for (int64_t row = 1; row <= rows && !failed; row++)
                failed = raw[ends[row * l->C - 1]] != '\n';
            if (failed) break;
            const lines t = {raw, size, ends, begin, first, rows};
            failed = read_rows(columns, l, &t);
            first += rows;
            begin = ends[taken - 1] + 1;
            found -= taken;
            memmove(ends, ends + taken, (size_t)found * sizeof(uint32_t));
        }
    }
    free(ends);
    return failed ? failed : first != n;
}
