// Small kernels for the wrappers of sm_90a.
#include "gc_device.cuh"

// One box to shared memory and from there, byte by byte, to `out`.
GC_DEVICE void expect_box(gc_mbarrier *full, int bytes) {
  gc_mbarrier_init(full, 1);
  gc_fence_async();
  gc_mbarrier_arrive_expect_tx(full, (gc_uint32)bytes);
}

GC_DEVICE void write_box(unsigned char *out, const unsigned char *box, gc_mbarrier *full,
                         int bytes) {
  gc_syncthreads();
  gc_mbarrier_wait(full, 0);
  for (int i = (int)threadIdx.x; i < bytes; i += (int)blockDim.x) out[i] = box[i];
}

extern "C" __global__ void copy_2d(const __grid_constant__ gc_tensor_map map, unsigned char *out,
                                   int bytes, int c0, int c1) {
  GC_DYNAMIC_SHARED(box);
  __shared__ gc_mbarrier full;
  if (threadIdx.x == 0) {
    expect_box(&full, bytes);
    gc_tma_load_2d(box, &map, &full, c0, c1);
  }
  write_box(out, box, &full, bytes);
}

extern "C" __global__ void copy_3d(const __grid_constant__ gc_tensor_map map, unsigned char *out,
                                   int bytes, int c0, int c1, int c2) {
  GC_DYNAMIC_SHARED(box);
  __shared__ gc_mbarrier full;
  if (threadIdx.x == 0) {
    expect_box(&full, bytes);
    gc_tma_load_3d(box, &map, &full, c0, c1, c2);
  }
  write_box(out, box, &full, bytes);
}

extern "C" __global__ void copy_4d(const __grid_constant__ gc_tensor_map map, unsigned char *out,
                                   int bytes, int c0, int c1, int c2, int c3) {
  GC_DYNAMIC_SHARED(box);
  __shared__ gc_mbarrier full;
  if (threadIdx.x == 0) {
    expect_box(&full, bytes);
    gc_tma_load_4d(box, &map, &full, c0, c1, c2, c3);
  }
  write_box(out, box, &full, bytes);
}

extern "C" __global__ void copy_5d(const __grid_constant__ gc_tensor_map map, unsigned char *out,
                                   int bytes, int c0, int c1, int c2, int c3, int c4) {
  GC_DYNAMIC_SHARED(box);
  __shared__ gc_mbarrier full;
  if (threadIdx.x == 0) {
    expect_box(&full, bytes);
    gc_tma_load_5d(box, &map, &full, c0, c1, c2, c3, c4);
  }
  write_box(out, box, &full, bytes);
}

template <int Swizzle>
GC_DEVICE void swizzle_each(gc_uint32 *out) {
  out[threadIdx.x] = gc_swizzle<Swizzle>(16 * threadIdx.x);
}
extern "C" __global__ void swizzles(gc_uint32 *out) {
  swizzle_each<32>(out);
  swizzle_each<64>(out + blockDim.x);
  swizzle_each<128>(out + 2 * blockDim.x);
}

// Ordinary writes to shared memory in the swizzled layout of 128 bytes, then products of 64 x N x
// 64 with both operands contiguous along the depth, or both along rows and columns.
template <int N, bool Transpose>
GC_DEVICE void multiply(const gc_bf16 *a, const gc_bf16 *b, float *c) {
  GC_DYNAMIC_SHARED(bytes);
  unsigned char *const right = bytes + 64 * 128;
  for (int i = (int)threadIdx.x; i < 64 * 64; i += 128) {
    const int line = i / 64, place = i % 64;
    *(gc_bf16 *)(bytes + gc_swizzle<128>(line * 128 + place * 2)) = a[i];
  }
  for (int i = (int)threadIdx.x; i < N * 64; i += 128) {
    const int width = Transpose ? N : 64, line = i / width, place = i % width;
    const int block = Transpose ? place / 64 * 64 * 128 : 0;
    *(gc_bf16 *)(right + block + gc_swizzle<128>(line * 128 + place % 64 * 2)) = b[i];
  }
  gc_fence_async();
  gc_syncthreads();
  float sum[N / 2];
  for (int i = 0; i < N / 2; i++) sum[i] = 7.0f;
  gc_wgmma_fence(sum);
#pragma unroll
  for (int k = 0; k < 64; k += 16) {
    const int step = Transpose ? k * 128 : k * 2;
    gc_wgmma_bf16<N, Transpose, Transpose>(sum, gc_wgmma_descriptor<128>(bytes + step, 1024, 8192),
                                           gc_wgmma_descriptor<128>(right + step, 1024, 8192),
                                           k > 0);
  }
  gc_wgmma_commit_group();
  gc_wgmma_wait_group<0>(sum);
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < N / 2; i++) {
    const int y = warp * 16 + lane / 4 + i / 2 % 2 * 8, x = i / 4 * 8 + lane % 4 * 2 + i % 2;
    c[y * N + x] = sum[i];
  }
}

extern "C" __global__ void __launch_bounds__(128)
    multiply_16(const gc_bf16 *a, const gc_bf16 *b, float *c) {
  multiply<16, false>(a, b, c);
}

extern "C" __global__ void __launch_bounds__(128)
    multiply_32(const gc_bf16 *a, const gc_bf16 *b, float *c) {
  multiply<32, false>(a, b, c);
}

extern "C" __global__ void __launch_bounds__(128)
    multiply_64(const gc_bf16 *a, const gc_bf16 *b, float *c) {
  multiply<64, false>(a, b, c);
}

extern "C" __global__ void __launch_bounds__(128)
    multiply_128(const gc_bf16 *a, const gc_bf16 *b, float *c) {
  multiply<128, false>(a, b, c);
}

extern "C" __global__ void __launch_bounds__(128)
    multiply_256(const gc_bf16 *a, const gc_bf16 *b, float *c) {
  multiply<256, false>(a, b, c);
}

extern "C" __global__ void __launch_bounds__(128)
    multiply_transposed_64(const gc_bf16 *a, const gc_bf16 *b, float *c) {
  multiply<64, true>(a, b, c);
}

extern "C" __global__ void __launch_bounds__(128)
    multiply_transposed_256(const gc_bf16 *a, const gc_bf16 *b, float *c) {
  multiply<256, true>(a, b, c);
}
