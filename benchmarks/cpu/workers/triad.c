/* The stream triad a = b + scalar * c: what memory gives to any code that is not clever.
   Arrays are 64-byte aligned, n is a multiple of 16. */
#include <immintrin.h>
#include <stddef.h>

void triad(float *restrict a, const float *restrict b, const float *restrict c, float scalar,
           size_t n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t i = 0; i < n; i++) a[i] = b[i] + scalar * c[i];
}

/* The same with stores that bypass the caches: the line written is not read first. */
void triad_streaming(float *restrict a, const float *restrict b, const float *restrict c,
                     float scalar, size_t n, int threads) {
    const __m256 s = _mm256_set1_ps(scalar);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t i = 0; i < n; i += 16) {
        for (size_t j = i; j < i + 16; j += 8) {
            const __m256 product = _mm256_mul_ps(s, _mm256_load_ps(c + j));
            _mm256_stream_ps(a + j, _mm256_add_ps(_mm256_load_ps(b + j), product));
        }
    }
    _mm_sfence();
}
