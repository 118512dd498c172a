/* What depends on the processor: how many numbers a vector holds, and the int8 dot product. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#if defined(__AVX512VNNI__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define MATES 3 /* heads that share keys and are computed together */
#define MOST (LANES / 2) /* tokens of a tile: its sums take half of the registers */
typedef float vf __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2)));

#ifdef FULL
enum { GROUP = 1 }; /* inputs per multiplication */
typedef float Weight, Operand, Kept;
typedef vf Sum;
#else
enum { GROUP = 4 };
typedef uint8_t Weight;
#if LANES == 8 && !defined(__AVXVNNI__)
#define PAIRS /* such a processor multiplies exactly only by pairs of 16 bits */
typedef int16_t Operand;
#else
typedef int8_t Operand;
#endif
typedef uint16_t Kept; /* bf16 */
typedef vi Sum;
#endif
const int64_t lanes = LANES, operand_bytes = sizeof(Operand); /* for whoever lays out memory */

static inline vf load(const float *p) { return *(const vf *)p; }
static inline void store(float *p, vf v) { *(vf *)p = v; }
#ifdef FULL
static inline vf load_kept(const Kept *p) { return load(p); }
static inline void store_kept(Kept *p, vf v) { store(p, v); }
#else
static inline vf load_kept(const Kept *p) { /* by name: GCC 12 widens half a vector at a time */
#if LANES == 16
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#elif LANES == 8
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
#else
    return (vf)(__builtin_convertvector(*(const vh *)p, vu) << 16);
#endif
}
static inline void store_kept(Kept *p, vf v) { /* round to nearest even */
    vu bits = (vu)v;
    bits += 0x7fff + ((bits >> 16) & 1);
    *(vh *)p = __builtin_convertvector(bits >> 16, vh);
}
#endif
static inline vf choose(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
static inline vf shuffle(vf a, vf b, vi from) {
#ifdef __clang__
    vf both;
    for (int i = 0; i < LANES; i++) both[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
    return both;
#else
    return __builtin_shuffle(a, b, from);
#endif
}
static inline float total(vf v) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#elif LANES == 8
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

/* Twice `count` vectors of parts that long to `count` of parts half as long, each half of them added. */
static inline __attribute__((always_inline)) void fold(vf *v, const int count) {
    vi first, second;
    for (int lane = 0; lane < LANES; lane++) {
        const int part = lane / count;
        first[lane] = part % 2 * LANES + part / 2 * 2 * count + lane % count;
        second[lane] = first[lane] + count;
    }
    for (int i = 0; i < count; i++)
        v[i] = shuffle(v[i], v[i + count], first) + shuffle(v[i], v[i + count], second);
}

/* The lanes' sums of LANES vectors, as the lanes of one; each in the order of `total`. */
static inline __attribute__((always_inline)) vf totals(vf *v) {
    if (LANES > 8) fold(v, 8);
    if (LANES > 4) fold(v, 4);
    fold(v, 2);
    fold(v, 1);
    return v[0];
}

static inline float largest(const float *x, int64_t size) {
    vf most = load(x);
    for (int64_t i = LANES; i < size; i += LANES) most = choose(load(x + i) > most, load(x + i), most);
    float found = most[0];
    for (int i = 1; i < LANES; i++) found = most[i] > found ? most[i] : found;
    return found;
}

/* exp by 2^n * polynomial (Cephes' coefficients); good to about 1e-7 for x in [-87, 87]. */
static inline vf exponential(vf x) {
    const vf low = x * 0 - 87.0f, high = x * 0 + 87.0f;
    x = choose(x < low, low, x);
    x = choose(x > high, high, x);
    vf n = x * 1.44269504f;
    vi whole = __builtin_convertvector(n + choose(n < 0, x * 0 - 0.5f, x * 0 + 0.5f), vi);
    n = __builtin_convertvector(whole, vf);
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vf)((whole + 127) << 23);
}

/* acc += GROUP weights of each of LANES outputs times GROUP operands of a token. */
static inline Sum dot(Sum acc, const Weight *w, const Operand *a) {
#if defined(FULL)
    return acc + *a * load(w);
#else
    vi weights;
    memcpy(&weights, w, sizeof weights);
#if defined(PAIRS) /* the operands' order is 0, 2, 1, 3: see quantize */
    int32_t even, odd;
    memcpy(&even, a, 4);
    memcpy(&odd, a + 2, 4);
    acc += (vi)_mm256_madd_epi16((__m256i)(weights & 0xff00ff), _mm256_set1_epi32(even));
    return acc + (vi)_mm256_madd_epi16(_mm256_srli_epi16((__m256i)weights, 8), _mm256_set1_epi32(odd));
#elif LANES >= 8
    int32_t four;
    memcpy(&four, a, 4);
#if LANES == 16
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)weights, _mm512_set1_epi32(four));
#else
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)weights, _mm256_set1_epi32(four));
#endif
#else
    for (int i = 0; i < 4; i++) acc += (weights >> 8 * i & 255) * a[i];
    return acc;
#endif
#endif
}
