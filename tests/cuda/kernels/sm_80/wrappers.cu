// One small kernel for each wrapper of sm_80; every one runs with a single block.
#include "gc_device.cuh"

extern "C" __global__ void uniform(float *out, gc_int64 seed, gc_int64 step, gc_int64 stream,
                                   gc_int64 first) {
  out[threadIdx.x] = gc_uniform(seed, step, stream, first + threadIdx.x);
}

extern "C" __global__ void philox(gc_uint32 *out, gc_uint64 counter, gc_uint32 step,
                                  gc_uint32 stream, gc_uint64 key) {
  const gc_random random = gc_philox(counter, step, stream, key);
  for (int i = 0; i < 4; i++) out[i] = random.word[i];
}

extern "C" __global__ void convert(const float *x, gc_bf16 *brain, gc_half *half, gc_uint32 *tf32,
                                   gc_uint32 *pairs, float *back) {
  const int i = (int)threadIdx.x;
  brain[i] = gc_to_bf16(x[i]);
  half[i] = gc_to_half(x[i]);
  tf32[i] = gc_to_tf32(x[i]);
  pairs[2 * i] = gc_pack_bf16(x[i], 1.0f);
  pairs[2 * i + 1] = gc_pack_half(x[i], 1.0f);
  back[2 * i] = gc_to_float(brain[i]);
  back[2 * i + 1] = gc_to_float(half[i]);
}

extern "C" __global__ void shuffle(const int *x, int *out) {
  const int lane = (int)threadIdx.x, value = x[lane];
  out[lane] = gc_shfl(value, 5);
  out[32 + lane] = gc_shfl_xor(value, 3);
  out[64 + lane] = gc_shfl_down(value, 4);
  const float sum = gc_shfl_xor((float)value, 16) + (float)value;
  out[96 + lane] = (int)sum;
}

extern "C" __global__ void atomic(float *out) {
  __shared__ float sum;
  if (threadIdx.x == 0) sum = 0.0f;
  gc_syncthreads();
  gc_atomic_add(&sum, (float)threadIdx.x);
  gc_syncthreads();
  if (threadIdx.x == 0) gc_atomic_add(out, sum);
}

// The first warp produces, the second consumes; neither waits for the whole block.
extern "C" __global__ void named_barriers(const float *x, float *out) {
  __shared__ float line[32];
  const int lane = (int)threadIdx.x % 32;
  for (int round = 0; round < 3; round++) {
    if (threadIdx.x < 32) {
      if (round) gc_barrier_sync(2, 64);
      line[lane] = x[round * 32 + lane];
      gc_barrier_arrive(1, 64);
    } else {
      gc_barrier_sync(1, 64);
      out[round * 32 + lane] = line[31 - lane];
      if (round < 2) gc_barrier_arrive(2, 64);
    }
  }
}

extern "C" __global__ void within_warp(const float *x, float *out) {
  __shared__ float line[64];
  line[threadIdx.x] = x[threadIdx.x];
  gc_syncwarp();
  out[threadIdx.x] = line[threadIdx.x ^ 31];
}

extern "C" __global__ void copies(const unsigned char *x, unsigned char *out, int valid) {
  GC_DYNAMIC_SHARED(bytes);
  const int i = (int)threadIdx.x;
  gc_cp_async16(bytes + 16 * i, x + 16 * i, i < valid);
  gc_cp_async_commit_group();
  gc_cp_async8(bytes + 512 + 8 * i, x + 8 * i, i < valid);
  gc_cp_async4(bytes + 768 + 4 * i, x + 4 * i, i < valid);
  gc_cp_async_commit_group();
  gc_cp_async_wait_group<1>();
  for (int k = 0; k < 16; k++) out[16 * i + k] = bytes[16 * i + k];
  gc_cp_async_wait_group<0>();
  for (int k = 0; k < 8; k++) out[512 + 8 * i + k] = bytes[512 + 8 * i + k];
  for (int k = 0; k < 4; k++) out[768 + 4 * i + k] = bytes[768 + 4 * i + k];
}

extern "C" __global__ void matrices(const gc_uint16 *x, gc_uint32 *out) {
  __shared__ __align__(16) gc_uint16 tile[4 * 64];
  for (int i = 0; i < 8; i++) tile[threadIdx.x * 8 + i] = x[threadIdx.x * 8 + i];
  gc_syncwarp();
  gc_uint32 word[4];
  gc_ldmatrix_x4(word, tile + threadIdx.x * 8);
  for (int i = 0; i < 4; i++) out[i * 32 + threadIdx.x] = word[i];
  gc_ldmatrix_x4_trans(word, tile + threadIdx.x * 8);
  for (int i = 0; i < 4; i++) out[128 + i * 32 + threadIdx.x] = word[i];
}

// kind 0: bf16, 1: half, 2: tf32. The fragments come as they are: 4 + 2 words and 4 sums a lane.
extern "C" __global__ void multiply(const gc_uint32 *a, const gc_uint32 *b, float *d, int kind) {
  const int lane = (int)threadIdx.x;
  gc_uint32 left[4];
  float sum[4];
  for (int i = 0; i < 4; i++) left[i] = a[4 * lane + i];
  for (int i = 0; i < 4; i++) sum[i] = d[4 * lane + i];
  const gc_uint32 right[2] = {b[2 * lane], b[2 * lane + 1]};
  if (kind == 0) gc_mma_bf16(sum, left, right);
  if (kind == 1) gc_mma_f16(sum, left, right);
  if (kind == 2) gc_mma_tf32(sum, left, right);
  for (int i = 0; i < 4; i++) d[4 * lane + i] = sum[i];
}
