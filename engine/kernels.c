/* One step of a decoder on a CPU: every layer, all tokens of all requests, one call.

   A token's numbers depend on that token alone: int8 sums are exact, and every floating-point
   sum runs over one token's own values in a fixed order. So logits are the same bits whatever
   else is in the step, however a prompt was cut into chunks, and whether it came from a cache.

   Compiled twice: as it stands for int8 weights, and with -DFULL for fp32 throughout.
   Layouts, in LANES: the numbers that one of this processor's vectors holds, L below:
     weights   uint8 [out/2L][in/4][2L][4], value + 128; one scale per output
               FULL: fp32 [out/2L][in][2L]
     adapters  Kept A [slots][in][parts * rank], B [slots][out of the part / L][rank][L]
     keys, values  Kept [rows][kv_heads][time][head_dim] per layer
   Vectors are GCC's, which Clang has too; what names an instruction set is in vectors.h. */

#include "vectors.h"

typedef struct {
    const Weight *weight;
    const float *scale, *bias; /* bias may be null */
    int64_t in, out;
} Matrix;

typedef struct {
    const Kept *a, *b[3]; /* a is null where no adapter changes this product */
    int64_t parts, starts[4];
} Site;

typedef struct {
    const float *attention_norm, *mlp_norm, *q_norm, *k_norm; /* the last two may be null */
    Matrix qkv, o, gate_up, down;
    Site adapt_qkv, adapt_o, adapt_gate_up, adapt_down;
    Kept *keys, *values;
    const float *rotary; /* [time][2][half] */
    int64_t window;
} Layer;

typedef struct {
    int64_t layers, hidden, heads, kv_heads, head_dim, wide, half, rank, time, gelu, threads;
    float eps, attention_scale, embed_scale;
    const Kept *embedding;
    const float *norm;
    Matrix head;
    const Layer *layer;
} Model;

typedef struct {
    int64_t tokens, wanted;
    const int64_t *token_ids, *positions, *rows, *slots, *wanted_tokens;
    const float *embeddings; /* instead of the tokens' own, or null */
    float *x, *y, *attended, *inner, *scale, *logits;
    Operand *operands;
    int32_t *sums;
} Step;

typedef enum { STORE, ADD, GATE } Ending;

/* Everything a product needs beyond its weights. */
typedef struct {
    const Matrix *matrix;
    const Site *site;
    const Model *model;
    const Step *step;
    float *out;
    int64_t tokens, stride;
    Ending ending;
} Product;

/* An adapter's rows of B for LANES outputs of a token, or null; its part of the inner values. */
static inline const Kept *factors(const Product *p, int64_t token, int64_t output, const float **inner) {
    const Site *site = p->site;
    if (!site || !site->a || !p->step->slots[token]) return NULL;
    const int64_t rank = p->model->rank;
    int64_t part = 0;
    while (output >= site->starts[part + 1]) part++;
    const int64_t start = site->starts[part], width = site->starts[part + 1] - start;
    *inner = p->step->inner + (token * site->parts + part) * rank;
    return site->b[part] + (p->step->slots[token] * width + output - start) * rank;
}

/* Every token's rows lie elsewhere: ask for them before the sums, to have them after. */
static inline void fetch(const Product *p, int64_t token, int64_t output) {
    const float *inner;
    const char *b = (const char *)factors(p, token, output, &inner);
    const int64_t bytes = b ? p->model->rank * LANES * (int64_t)sizeof(Kept) : 0;
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(b + i);
}

/* Not inlined: one copy of the code, so one order of rounding, for tiles of any height. */
static __attribute__((noinline)) vf finish(const Product *p, int64_t token, int64_t output, int64_t row, Sum acc) {
#ifdef FULL
    vf sum = acc;
#else
    vf sum = __builtin_convertvector(acc - 128 * p->step->sums[token], vf);
    sum = sum * load(p->matrix->scale + row) * p->step->scale[token];
#endif
    if (p->matrix->bias) sum += load(p->matrix->bias + row);
    const float *inner;
    const Kept *b = factors(p, token, output, &inner);
    if (!b) return sum;
    vf share[4] = {{0}, {0}, {0}, {0}};
    for (int64_t r = 0; r < p->model->rank; r += 4)
        for (int u = 0; u < 4; u++) share[u] += inner[r + u] * load_kept(b + (r + u) * LANES);
    return sum + ((share[0] + share[1]) + (share[2] + share[3]));
}

static inline vf activate(vf gate, int64_t gelu) {
    if (gelu) { /* x * sigmoid(2u) is the tanh form of GELU */
        vf u = 0.7978845608f * (gate + 0.044715f * gate * gate * gate);
        return gate / (1.0f + exponential(-2.0f * u));
    }
    return gate / (1.0f + exponential(-gate));
}

/* Two vectors of outputs for `count` tokens; count is a constant after inlining. */
static inline __attribute__((always_inline)) void tile(
    const Product *p, int64_t block, int64_t first, const int count) {
    const int64_t in = p->matrix->in, row = block * 2 * LANES;
    /* of the gate, weights are interleaved: a vector of it, then one of what it gates */
    const int64_t left = p->ending == GATE ? block * LANES : row;
    const int64_t right = p->ending == GATE ? p->model->wide + left : row + LANES;
    const Weight *w = p->matrix->weight + row * in;
    const Operand *a = p->step->operands + first * in;
    Sum low[MOST], high[MOST];
    for (int m = 0; m < count; m++) {
        low[m] = high[m] = (Sum){0};
        fetch(p, first + m, left);
        fetch(p, first + m, right);
    }
    for (int64_t k = 0; k < in; k += GROUP, w += 2 * LANES * GROUP)
        for (int m = 0; m < count; m++) {
            low[m] = dot(low[m], w, a + m * in + k);
            high[m] = dot(high[m], w + LANES * GROUP, a + m * in + k);
        }
    for (int m = 0; m < count; m++) {
        float *out = p->out + (first + m) * p->stride + left;
        vf one = finish(p, first + m, left, row, low[m]);
        vf two = finish(p, first + m, right, row + LANES, high[m]);
        if (p->ending == GATE) {
            store(out, activate(one, p->model->gelu) * two);
            continue;
        }
        if (p->ending == ADD) one += load(out), two += load(out + LANES);
        store(out, one);
        store(out + LANES, two);
    }
}

/* Outputs are shared among threads; a thread's weights stay in its cache for all tokens. */
static void multiply(const Product *p) {
    const int64_t blocks = p->matrix->out / (2 * LANES);
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t token = 0;
        for (; token + MOST <= p->tokens; token += MOST) tile(p, block, token, MOST);
        for (; token + 2 <= p->tokens; token += 2) tile(p, block, token, 2);
        for (; token < p->tokens; token++) tile(p, block, token, 1);
    }
}

#ifdef FULL
static void quantize(const Step *s, int64_t token, const float *x, int64_t size) {
    memcpy(s->operands + token * size, x, size * sizeof(float));
}
#else
/* A token's values to int8 with a scale of its own, and their sum for the weights' offset. */
static void quantize(const Step *s, int64_t token, const float *x, int64_t size) {
    vf top = {0};
    for (int64_t i = 0; i < size; i += LANES) {
        vf size_of = (vf)((vi)load(x + i) & 0x7fffffff);
        top = choose(size_of > top, size_of, top);
    }
    float most = 1e-12f;
    for (int i = 0; i < LANES; i++) most = top[i] > most ? top[i] : most;
    const float scale = most / 127.0f, inverse = 127.0f / most;
    Operand *q = s->operands + token * size;
    int32_t sum = 0;
    for (int64_t i = 0; i < size; i++) {
        q[i] = (Operand)(int32_t)rintf(x[i] * inverse);
        sum += q[i];
    }
#ifdef PAIRS
    for (int64_t i = 1; i < size; i += 4) {
        const Operand second = q[i];
        q[i] = q[i + 1], q[i + 1] = second;
    }
#endif
    s->scale[token] = scale;
    s->sums[token] = sum;
}
#endif

/* `count` vectors of x A, a constant after inlining; four sums of each hide the latency. */
static inline __attribute__((always_inline)) void shrink_columns(
    const float *x, const Kept *a, int64_t size, int64_t width, float *inner, const int count) {
    vf sum[4][3];
    for (int c = 0; c < count; c++) sum[0][c] = sum[1][c] = sum[2][c] = sum[3][c] = (vf){0};
    for (int64_t k = 0; k < size; k += 4)
        for (int u = 0; u < 4; u++)
            for (int c = 0; c < count; c++)
                sum[u][c] += x[k + u] * load_kept(a + (k + u) * width + c * LANES);
    for (int c = 0; c < count; c++)
        store(inner + c * LANES, (sum[0][c] + sum[1][c]) + (sum[2][c] + sum[3][c]));
}

/* inner = x A for the token's slot; three vectors are what q, k and v take at rank 16. */
static void shrink(const Model *m, const Step *s, const Site *site, int64_t token, const float *x,
                   int64_t size) {
    const int64_t slot = s->slots[token], width = site->parts * m->rank;
    if (!site->a || !slot) return;
    const Kept *a = site->a + slot * size * width;
    float *inner = s->inner + token * width;
    int64_t column = 0;
    for (; column + 3 * LANES <= width; column += 3 * LANES)
        shrink_columns(x, a + column, size, width, inner + column, 3);
    for (; column + 2 * LANES <= width; column += 2 * LANES)
        shrink_columns(x, a + column, size, width, inner + column, 2);
    for (; column < width; column += LANES)
        shrink_columns(x, a + column, size, width, inner + column, 1);
}

static void norm(float *out, const float *x, const float *weight, int64_t size, float eps) {
    vf squares = {0};
    for (int64_t i = 0; i < size; i += LANES) squares += load(x + i) * load(x + i);
    const float factor = 1.0f / sqrtf(total(squares) / size + eps);
    for (int64_t i = 0; i < size; i += LANES) store(out + i, load(x + i) * factor * load(weight + i));
}

/* Make the tokens ready for a product: norm where there is one, adapters' first half, int8. */
static void prepare(const Model *m, const Step *s, const Site *site, const float *x,
                    const float *weight, int64_t tokens, int64_t size) {
#pragma omp for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const float *from = x + token * size;
        float normed[weight ? size : 1];
        if (weight) norm(normed, from, weight, size, m->eps), from = normed;
        if (site) shrink(m, s, site, token, from, size);
        quantize(s, token, from, size);
    }
}

static void rotate(float *x, const float *turn, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i], second = x[half + i];
        x[i] = first * turn[i] - second * turn[half + i];
        x[half + i] = second * turn[i] + first * turn[half + i];
    }
}

/* Norm and turn queries and keys in place; store keys and values. */
static void remember(const Model *m, const Layer *layer, const Step *s) {
    const int64_t dim = m->head_dim, q = m->heads * dim, kv = m->kv_heads * dim;
#pragma omp for schedule(static)
    for (int64_t token = 0; token < s->tokens; token++) {
        float *y = s->y + token * (q + 2 * kv);
        const int64_t position = s->positions[token];
        const float *turn = layer->rotary + position * 2 * m->half;
        for (int64_t head = 0; head < m->heads + m->kv_heads; head++) {
            const float *weight = head < m->heads ? layer->q_norm : layer->k_norm;
            if (weight) norm(y + head * dim, y + head * dim, weight, dim, m->eps);
            rotate(y + head * dim, turn, m->half);
        }
        for (int64_t head = 0; head < m->kv_heads; head++) {
            const int64_t at = ((s->rows[token] * m->kv_heads + head) * m->time + position) * dim;
            for (int64_t i = 0; i < dim; i += LANES) {
                store_kept(layer->keys + at + i, load(y + q + head * dim + i));
                store_kept(layer->values + at + i, load(y + q + kv + head * dim + i));
            }
        }
    }
}

/* Some query heads that share keys, over times [first, last); every score is summed in one order.
   vectors = head_dim / LANES; it and `heads` are constants after inlining. */
static inline __attribute__((always_inline)) void attend(
    const float *q, const Kept *keys, const Kept *values, float *scores, int64_t room, float *out,
    int64_t first, int64_t last, float scale, const int vectors, const int heads) {
    const int64_t dim = vectors * LANES, length = last - first;
    const int64_t padded = (length + LANES - 1) / LANES * LANES;
    vf query[MATES][256 / LANES], sum[MATES][256 / LANES], inverse[MATES], part[MATES][LANES];
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < vectors; i++) query[h][i] = load(q + h * dim + i * LANES) * scale;
    for (int64_t t = 0; t < padded; t += LANES) {
        for (int64_t u = 0; u < LANES; u++) {
            const Kept *key = keys + (first + t + u < last ? first + t + u : first) * dim;
            for (int i = 0; i < vectors; i++) {
                const vf k = load_kept(key + i * LANES);
                for (int h = 0; h < heads; h++)
                    part[h][u] = i ? part[h][u] + query[h][i] * k : query[h][i] * k;
            }
        }
        for (int h = 0; h < heads; h++) store(scores + h * room + t, totals(part[h]));
    }
    for (int h = 0; h < heads; h++) {
        float *score = scores + h * room;
        for (int64_t t = length; t < padded; t++) score[t] = -3e38f; /* exp gives 1e-38 */
        const float most = largest(score, padded);
        vf mass = {0};
        for (int64_t t = 0; t < padded; t += LANES) {
            vf e = exponential(load(score + t) - most);
            store(score + t, e);
            mass += e;
        }
        inverse[h] = (vf){0} + 1.0f / total(mass);
        for (int i = 0; i < vectors; i++) sum[h][i] = (vf){0};
    }
    for (int64_t t = 0; t < length; t++)
        for (int i = 0; i < vectors; i++) {
            const vf v = load_kept(values + (first + t) * dim + i * LANES);
            for (int h = 0; h < heads; h++) sum[h][i] += scores[h * room + t] * v;
        }
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < vectors; i++) store(out + h * dim + i * LANES, sum[h][i] * inverse[h]);
}

static void attention(const Model *m, const Layer *layer, const Step *s, float *scores) {
    const int64_t dim = m->head_dim, group = m->heads / m->kv_heads, room = m->time + LANES;
    const int64_t width = (m->heads + 2 * m->kv_heads) * dim;
#pragma omp for schedule(static, 1)
    for (int64_t task = 0; task < s->tokens * m->kv_heads; task++) {
        const int64_t token = task / m->kv_heads, kv = task % m->kv_heads;
        const int64_t last = s->positions[token] + 1;
        const int64_t first = layer->window && last > layer->window ? last - layer->window : 0;
        const int64_t at = (s->rows[token] * m->kv_heads + kv) * m->time * dim;
        const Kept *keys = layer->keys + at, *values = layer->values + at;
        for (int64_t head = kv * group, next; head < (kv + 1) * group; head = next) {
            const float *q = s->y + token * width + head * dim;
            float *out = s->attended + (token * m->heads + head) * dim;
            next = head + MATES <= (kv + 1) * group ? head + MATES : head + 1;
            switch (dim * 4 + next - head) { /* the caller lets only these sizes through */
#define HEADS(n, count) case n * 4 + count: \
    attend(q, keys, values, scores, room, out, first, last, m->attention_scale, n / LANES, count); break
#define SIZE(n) HEADS(n, 1); HEADS(n, MATES)
                SIZE(16); SIZE(32); SIZE(64); SIZE(96); SIZE(128); SIZE(256);
            }
        }
    }
}

static void run_layer(const Model *m, const Layer *l, const Step *s, float *scores) {
    const int64_t n = s->tokens, h = m->hidden, q = m->heads * m->head_dim, w = m->wide;
    const Product qkv = {&l->qkv, &l->adapt_qkv, m, s, s->y, n, l->qkv.out, STORE};
    const Product o = {&l->o, &l->adapt_o, m, s, s->x, n, h, ADD};
    const Product gate_up = {&l->gate_up, &l->adapt_gate_up, m, s, s->y, n, w, GATE};
    const Product down = {&l->down, &l->adapt_down, m, s, s->x, n, h, ADD};
    prepare(m, s, &l->adapt_qkv, s->x, l->attention_norm, n, h);
    multiply(&qkv);
    remember(m, l, s);
    attention(m, l, s, scores);
    prepare(m, s, &l->adapt_o, s->attended, NULL, n, q);
    multiply(&o);
    prepare(m, s, &l->adapt_gate_up, s->x, l->mlp_norm, n, h);
    multiply(&gate_up);
    prepare(m, s, &l->adapt_down, s->y, NULL, n, w);
    multiply(&down);
}

/* Compute a step: keys and values are stored, logits of the wanted tokens written. */
void run_step(const Model *m, const Step *s) {
    const int64_t h = m->hidden;
#pragma omp parallel num_threads((int)m->threads)
    {
        float *scores = malloc(MATES * (m->time + LANES) * sizeof(float));
#pragma omp for schedule(static)
        for (int64_t token = 0; token < s->tokens; token++)
            for (int64_t i = 0; i < h; i += LANES)
                store(s->x + token * h + i,
                      s->embeddings
                          ? load(s->embeddings + token * h + i)
                          : load_kept(m->embedding + s->token_ids[token] * h + i) * m->embed_scale);
        for (int64_t l = 0; l < m->layers; l++) run_layer(m, m->layer + l, s, scores);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s->wanted; i++)
            memcpy(s->y + i * h, s->x + s->wanted_tokens[i] * h, h * sizeof(float));
        prepare(m, s, NULL, s->y, m->norm, s->wanted, h);
        const Product head = {&m->head, NULL, m, s, s->logits, s->wanted, m->head.out, STORE};
        multiply(&head);
        free(scores);
    }
}

/* Steps of several models, each over a part of the tokens; a thread takes whole models, whose
   weights then fill its own cache. Too few of them for that share their products instead. */
void run_steps(const Model *models, const int64_t *which, const Step *s, int64_t count, int64_t threads) {
    if (count < threads) {
        for (int64_t i = 0; i < count; i++) run_step(models + which[i], s + i);
        return;
    }
#pragma omp parallel for num_threads((int)threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < count; i++) run_step(models + which[i], s + i); /* within: one thread */
}
