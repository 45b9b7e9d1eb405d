// c[m, n] = a[m, k] b[n, k]: two blocks of a cluster multiply neighbouring rows by the same columns,
// of which each brings one half to both. Tiles of 64 x 64, depth 64, two stages.
#include "gc_device.cuh"

#define TILE 64
#define DEPTH 64
#define STAGES 2
#define BLOCKS 2
#define TILE_BYTES (TILE * DEPTH * 2)

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(256, 1)
    cluster(const __grid_constant__ gc_tensor_map a, const __grid_constant__ gc_tensor_map b,
            float *__restrict__ c, int m, int n, int steps) {
  GC_DYNAMIC_SHARED(tiles);
  gc_mbarrier *const full = (gc_mbarrier *)(tiles + STAGES * 2 * TILE_BYTES), *const empty = full + STAGES;
  const int rank = (int)gc_cluster_rank(), row = (int)blockIdx.x * TILE, column = (int)blockIdx.y * TILE;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      gc_mbarrier_init(full + stage, 1);
      gc_mbarrier_init(empty + stage, BLOCKS);
    }
    gc_fence_async();
    gc_fence_mbarrier_init();
  }
  gc_cluster_sync();
  if (threadIdx.x < 128) {
    gc_register_budget_decrease<40>();
    for (int step = 0; threadIdx.x == 0 && step < steps; step++) {
      const int stage = step % STAGES, phase = step / STAGES % 2;
      unsigned char *const tile = tiles + stage * 2 * TILE_BYTES;
      unsigned char *const half = tile + TILE_BYTES + rank * (TILE_BYTES / BLOCKS);
      gc_mbarrier_wait(empty + stage, phase ^ 1);
      gc_mbarrier_arrive_expect_tx(full + stage, 2 * TILE_BYTES);
      gc_tma_load_2d(tile, &a, full + stage, step * DEPTH, row);
      gc_tma_multicast_2d(half, &b, full + stage, 3, step * DEPTH, column + rank * (TILE / BLOCKS));
    }
  } else {
    gc_register_budget_increase<232>();
    float sum[TILE / 2] = {};
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
      if (threadIdx.x % 128 < BLOCKS) gc_mbarrier_arrive_at(empty + stage, threadIdx.x % 128);
    }
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % 4;
#pragma unroll
    for (int i = 0; i < TILE / 2; i++) {
      const int y = row + warp * 16 + lane / 4 + i / 2 % 2 * 8;
      const int x = column + i / 4 * 8 + lane % 4 * 2 + i % 2;
      if (y < m && x < n) c[(gc_int64)y * n + x] = sum[i];
    }
  }
  gc_cluster_sync();  // the other block may still arrive here
}
