// c[m, n] = a[m, k] b[n, k]: one warpgroup brings tiles by tensor copies, the other multiplies
// them. Tiles of 64 x 64, depth 64, two stages; tensor copies fill borders with zeros.
#include "gc_device.cuh"

#define TILE 64
#define DEPTH 64
#define STAGES 2
#define TILE_BYTES (TILE * DEPTH * 2)

GC_DEVICE void produce(unsigned char *tiles, const gc_tensor_map *a, const gc_tensor_map *b,
                       gc_mbarrier *full, gc_mbarrier *empty, int steps) {
  const int row = (int)blockIdx.y * TILE, column = (int)blockIdx.x * TILE;
  for (int step = 0; step < steps; step++) {
    const int stage = step % STAGES, phase = step / STAGES % 2;
    unsigned char *const tile = tiles + stage * 2 * TILE_BYTES;
    gc_mbarrier_wait(empty + stage, phase ^ 1);
    gc_mbarrier_arrive_expect_tx(full + stage, 2 * TILE_BYTES);
    gc_tma_load_2d(tile, a, full + stage, step * DEPTH, row);
    gc_tma_load_2d(tile + TILE_BYTES, b, full + stage, step * DEPTH, column);
  }
}

GC_DEVICE void consume(float (&sum)[TILE / 2], const unsigned char *tiles, gc_mbarrier *full,
                       gc_mbarrier *empty, int steps) {
  for (int step = 0; step < steps; step++) {
    const int stage = step % STAGES, phase = step / STAGES % 2;
    const unsigned char *const tile = tiles + stage * 2 * TILE_BYTES;
    gc_mbarrier_wait(full + stage, phase);
    gc_wgmma_fence(sum);
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16)
      gc_wgmma_bf16<TILE>(sum, gc_wgmma_descriptor<128>(tile + 2 * k, 1024, 0),
                          gc_wgmma_descriptor<128>(tile + TILE_BYTES + 2 * k, 1024, 0));
    gc_wgmma_commit_group();
    gc_wgmma_wait_group<0>(sum);
    if (threadIdx.x % 128 == 0) gc_mbarrier_arrive(empty + stage);
  }
}

extern "C" __global__ void __launch_bounds__(256, 1)
    pipeline(const __grid_constant__ gc_tensor_map a, const __grid_constant__ gc_tensor_map b,
             float *__restrict__ c, int m, int n, int steps) {
  GC_DYNAMIC_SHARED(tiles);
  __shared__ gc_mbarrier full[STAGES], empty[STAGES];
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      gc_mbarrier_init(full + stage, 1);
      gc_mbarrier_init(empty + stage, 1);
    }
    gc_fence_async();
  }
  gc_syncthreads();
  if (threadIdx.x < 128) {
    gc_register_budget_decrease<40>();
    if (threadIdx.x == 0) produce(tiles, &a, &b, full, empty, steps);
    return;
  }
  gc_register_budget_increase<232>();
  float sum[TILE / 2] = {};
  consume(sum, tiles, full, empty, steps);
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % 4;
#pragma unroll
  for (int i = 0; i < TILE / 2; i++) {
    const int y = (int)blockIdx.y * TILE + warp * 16 + lane / 4 + i / 2 % 2 * 8;
    const int x = (int)blockIdx.x * TILE + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (y < m && x < n) c[(gc_int64)y * n + x] = sum[i];
  }
}
