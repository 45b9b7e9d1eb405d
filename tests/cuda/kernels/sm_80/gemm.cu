// c[m, n] = a[m, k] b[n, k]: tiles of 64 x 64, depth 32, two stages of asynchronous copies, four
// warps of 32 x 32. The depth is a multiple of 8, so that a copy is either inside or outside.
#include "gc_device.cuh"

#define TILE 64
#define DEPTH 32
#define LINE (DEPTH + 8)  // eight lines of 16 bytes lie in different banks
#define STAGE (2 * TILE * LINE)

GC_DEVICE void load_tile(gc_bf16 *tile, const gc_bf16 *matrix, int first_row, int rows,
                         int first_depth, int depth) {
  for (int part = (int)threadIdx.x; part < TILE * DEPTH / 8; part += (int)blockDim.x) {
    const int row = part / (DEPTH / 8), column = part % (DEPTH / 8) * 8;
    const bool inside = first_row + row < rows && first_depth + column < depth;
    const gc_int64 offset = (gc_int64)(first_row + row) * depth + first_depth + column;
    gc_cp_async16(tile + row * LINE + column, inside ? matrix + offset : matrix, inside);
  }
}

GC_DEVICE void multiply_tile(float (&sum)[2][4][4], const gc_bf16 *a, const gc_bf16 *b) {
  const int lane = (int)threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < DEPTH; k += 16) {
    gc_uint32 left[2][4], right[2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      gc_ldmatrix_x4(left[i], a + (i * 16 + lane % 16) * LINE + k + lane / 16 * 8);
      gc_ldmatrix_x4(right[i],
                     b + (i * 16 + lane % 8 + lane / 16 * 8) * LINE + k + lane / 8 % 2 * 8);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const gc_uint32 pair[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
        gc_mma_bf16(sum[i][j], left[i], pair);
      }
  }
}

extern "C" __global__ void __launch_bounds__(128)
    gemm(const gc_bf16 *__restrict__ a, const gc_bf16 *__restrict__ b, float *__restrict__ c, int m,
         int n, int k) {
  GC_DYNAMIC_SHARED(bytes);
  gc_bf16 *const stages = (gc_bf16 *)bytes;
  const int row = (int)blockIdx.y * TILE, column = (int)blockIdx.x * TILE;
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int steps = (k + DEPTH - 1) / DEPTH;
  float sum[2][4][4] = {};

  load_tile(stages, a, row, m, 0, k);
  load_tile(stages + TILE * LINE, b, column, n, 0, k);
  gc_cp_async_commit_group();
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) {
      gc_bf16 *const next = stages + (step + 1) % 2 * STAGE;
      load_tile(next, a, row, m, (step + 1) * DEPTH, k);
      load_tile(next + TILE * LINE, b, column, n, (step + 1) * DEPTH, k);
    }
    gc_cp_async_commit_group();
    gc_cp_async_wait_group<1>();
    gc_syncthreads();  // this stage is complete
    const gc_bf16 *const tile = stages + step % 2 * STAGE;
    multiply_tile(sum, tile + warp / 2 * 32 * LINE, tile + (TILE + warp % 2 * 32) * LINE);
    gc_syncthreads();  // this stage may be overwritten
  }

#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int part = 0; part < 4; part++) {
        const int y = row + warp / 2 * 32 + i * 16 + lane / 4 + part / 2 * 8;
        const int x = column + warp % 2 * 32 + j * 8 + lane % 4 * 2 + part % 2;
        if (y < m && x < n) c[(gc_int64)y * n + x] = sum[i][j][part];
      }
}
