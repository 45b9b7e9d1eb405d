// What every generated CUDA kernel includes, and the only place with inline PTX.
//
// nvcc and NVRTC read the wrappers below; it includes nothing for them. Any other compiler gets the
// same names from gc_emulator.hpp, which runs a kernel on a CPU. Kernels keep to these rules:
//   - `extern "C" __global__ void name(...)`, with __launch_bounds__ where it helps;
//   - threadIdx, blockIdx, blockDim, gridDim, `__shared__` arrays and GC_DYNAMIC_SHARED;
//   - whatever waits, communicates or copies asynchronously goes through a gc_ wrapper.
#ifndef GC_DEVICE_CUH
#define GC_DEVICE_CUH

typedef unsigned char gc_uint8;
typedef unsigned short gc_uint16;
typedef unsigned int gc_uint32;
typedef unsigned long long gc_uint64;
typedef long long gc_int64;

// Numbers of 16 bits as storage; arithmetic happens in float.
struct gc_bf16 {
  gc_uint16 bits;
};
struct gc_half {
  gc_uint16 bits;
};

// A tensor map, made by the driver (128 bytes, opaque). Pass it by value as the first parameter:
// `const __grid_constant__ gc_tensor_map map`, and give its address to gc_tma_load_*.
struct alignas(64) gc_tensor_map {
  gc_uint64 opaque[16];
};

// An arrival barrier in shared memory; only gc_mbarrier_* may touch it.
struct alignas(8) gc_mbarrier {
  gc_uint64 state;
};

// Four random words.
struct gc_random {
  gc_uint32 word[4];
};

#ifdef __CUDACC__
#define GC_DEVICE static __device__ __forceinline__
#define GC_MEMBER __device__ __forceinline__
// Declares `unsigned char *name`, the shared memory whose size the launch gives, 1024-byte aligned.
extern __shared__ __align__(1024) unsigned char gc_dynamic_shared[];
#define GC_DYNAMIC_SHARED(name) unsigned char *const name = gc_dynamic_shared

// The address of shared memory as the instructions want it.
GC_DEVICE gc_uint32 gc_shared_address(const void *shared) {
  return (gc_uint32)__cvta_generic_to_shared(shared);
}
#else
#include "gc_emulator.hpp"
#endif

// ---- Neighbours that move as one, the same text on both machines -------------------------------

// Count neighbours in registers.
template <class Type, int Count>
struct alignas(Count * sizeof(Type)) gc_lanes {
  Type lane[Count];
  GC_MEMBER Type &operator[](int i) { return lane[i]; }
  GC_MEMBER const Type &operator[](int i) const { return lane[i]; }
};

// The address is a multiple of their bytes, 2 to 32; one access, or two of 16 bytes.
template <int Count, class Type>
GC_DEVICE gc_lanes<Type, Count> gc_load_lanes(const Type *address) {
  return *reinterpret_cast<const gc_lanes<Type, Count> *>(address);
}

template <int Count, class Type>
GC_DEVICE void gc_store_lanes(Type *address, const gc_lanes<Type, Count> &lanes) {
  *reinterpret_cast<gc_lanes<Type, Count> *>(address) = lanes;
}

// ---- Arithmetic, the same text on both machines ------------------------------------------------

#define GC_INFINITY __int_as_float(0x7F800000)
#define GC_NAN __int_as_float(0x7FC00000)

// floor(a / b) and the remainder that is never negative, for b > 0.
template <class Type>
GC_DEVICE Type gc_floor_div(Type a, int b) {
  return a / b - (a % b < 0);
}
template <class Type>
GC_DEVICE Type gc_mod(Type a, int b) {
  const Type r = a % b;
  return r < 0 ? r + b : r;
}

GC_DEVICE float gc_sigmoidf(float x) {
  return x >= 0 ? 1.0f / (1.0f + expf(-x)) : expf(x) / (1.0f + expf(x));
}
GC_DEVICE double gc_sigmoid(double x) {
  return x >= 0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
}
GC_DEVICE float gc_softplusf(float x) { return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x))); }
GC_DEVICE double gc_softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
GC_DEVICE float gc_signf(float x) { return (float)((x > 0) - (x < 0)); }
GC_DEVICE double gc_sign(double x) { return (double)((x > 0) - (x < 0)); }

GC_DEVICE float gc_to_float(gc_bf16 x) { return __uint_as_float((gc_uint32)x.bits << 16); }

// Philox4x32-10 (Salmon et al. 2011) of a counter of 128 bits and a key of 64.
GC_DEVICE gc_random gc_philox(gc_uint64 counter, gc_uint32 step, gc_uint32 stream, gc_uint64 key) {
  gc_uint32 c0 = (gc_uint32)counter, c1 = (gc_uint32)(counter >> 32), c2 = step, c3 = stream;
  gc_uint32 k0 = (gc_uint32)key, k1 = (gc_uint32)(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const gc_uint64 p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = (gc_uint32)(p1 >> 32) ^ c1 ^ k0;
    c1 = (gc_uint32)p1;
    c2 = (gc_uint32)(p0 >> 32) ^ c3 ^ k1;
    c3 = (gc_uint32)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return gc_random{{c0, c1, c2, c3}};
}

// A number in [0, 1) with 24 bits: bit for bit the gc_uniform of the C header.
GC_DEVICE float gc_uniform(gc_int64 seed, gc_int64 step, gc_int64 stream, gc_int64 counter) {
  const gc_random words =
      gc_philox((gc_uint64)counter, (gc_uint32)step, (gc_uint32)stream, (gc_uint64)seed);
  return (float)(words.word[0] >> 8) * 5.9604644775390625e-08f;
}

// Where the byte `offset` of a tile lies after a swizzle of 128, 64 or 32 bytes (0: none). The tile
// starts at a multiple of 8 * Bytes; this is what TMA writes and what gc_wgmma_bf16 expects.
template <int Bytes>
GC_DEVICE gc_uint32 gc_swizzle(gc_uint32 offset) {
  static_assert(Bytes == 0 || Bytes == 32 || Bytes == 64 || Bytes == 128, "no such swizzle");
  return offset ^ (((offset >> 7) & (Bytes / 16 - (Bytes != 0))) << 4);
}

// Describes a matrix of 16-bit numbers in shared memory to gc_wgmma_bf16; its swizzle has S bytes.
// Depth contiguous: rows of S bytes, 8 rows an atom, `stride` bytes from atom to atom; `leading`
// does not matter. Rows contiguous: lines of S bytes, 8 steps of depth an atom, `stride` bytes from
// atom to atom along the depth, `leading` bytes from atom to atom along the rows.
template <int Swizzle>
GC_DEVICE gc_uint64 gc_wgmma_descriptor(const void *shared, gc_uint32 stride, gc_uint32 leading) {
  static_assert(Swizzle == 32 || Swizzle == 64 || Swizzle == 128, "no such swizzle");
  const gc_uint64 mode = Swizzle == 128 ? 1 : Swizzle == 64 ? 2 : 3;
  return (gc_uint64)((gc_shared_address(shared) & 0x3FFFF) >> 4) | (gc_uint64)(leading >> 4) << 16 |
         (gc_uint64)(stride >> 4) << 32 | mode << 62;
}

#ifdef __CUDACC__

// ---- Numbers of 16 bits ------------------------------------------------------------------------

GC_DEVICE gc_bf16 gc_to_bf16(float x) {
  gc_bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
}

GC_DEVICE gc_half gc_to_half(float x) {
  gc_half result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
}

GC_DEVICE float gc_to_float(gc_half x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}

// Two numbers in one word, the first in its low half: what mma operands hold.
GC_DEVICE gc_uint32 gc_pack_bf16(float low, float high) {
  gc_uint32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

GC_DEVICE gc_uint32 gc_pack_half(float low, float high) {
  gc_uint32 word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// A float rounded to the 10 bits that gc_mma_tf32 reads, ties away from zero.
GC_DEVICE gc_uint32 gc_to_tf32(float x) {
  gc_uint32 word;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
  return word;
}

// ---- Threads of a block ------------------------------------------------------------------------

// All threads of the block meet; what they wrote is seen by all.
GC_DEVICE void gc_syncthreads() { __syncthreads(); }

// The 32 threads of the warp meet; what they wrote is seen by the warp.
GC_DEVICE void gc_syncwarp() { __syncwarp(); }

// `threads` threads (a multiple of 32) meet at barrier `number`, 1 to 15; 0 is gc_syncthreads.
GC_DEVICE void gc_barrier_sync(gc_uint32 number, gc_uint32 threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Counts as having come to the barrier, without waiting.
GC_DEVICE void gc_barrier_arrive(gc_uint32 number, gc_uint32 threads) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// The value of a lane of the warp, all 32 lanes taking part; Type is float, int or gc_uint32.
template <class Type>
GC_DEVICE Type gc_shfl(Type value, int lane) {
  return __shfl_sync(0xFFFFFFFFu, value, lane);
}

// The value of the lane whose number differs by the bits of `mask`.
template <class Type>
GC_DEVICE Type gc_shfl_xor(Type value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}

// The value of the lane `distance` above, or one's own where there is none.
template <class Type>
GC_DEVICE Type gc_shfl_down(Type value, int distance) {
  return __shfl_down_sync(0xFFFFFFFFu, value, (unsigned)distance);
}

// Adds in global or shared memory. The order is not fixed: only for the optional fast mode.
GC_DEVICE void gc_atomic_add(float *address, float value) { atomicAdd(address, value); }

// ---- Asynchronous copies, sm_80 ----------------------------------------------------------------

// Copies 16 bytes from global to shared memory, both 16-byte aligned, or writes zeros if not valid.
GC_DEVICE void gc_cp_async16(void *shared, const void *global, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(gc_shared_address(shared)),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

// The same with 8 bytes.
GC_DEVICE void gc_cp_async8(void *shared, const void *global, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(gc_shared_address(shared)),
               "l"(global), "r"(valid ? 8 : 0)
               : "memory");
}

// The same with 4 bytes.
GC_DEVICE void gc_cp_async4(void *shared, const void *global, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(gc_shared_address(shared)),
               "l"(global), "r"(valid ? 4 : 0)
               : "memory");
}

// Closes a group of this thread's copies; it may be empty.
GC_DEVICE void gc_cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most Pending of this thread's groups are under way. Other threads see the copies
// only after a barrier.
template <int Pending>
GC_DEVICE void gc_cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- Matrix products of a warp, sm_80 ----------------------------------------------------------

// Four 8 x 8 matrices of 16-bit numbers: lane l gives the address of row l % 8 of matrix l / 8 and
// gets the numbers 2 * (l % 4) and the next of row l / 4 of each.
GC_DEVICE void gc_ldmatrix_x4(gc_uint32 (&word)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(gc_shared_address(row))
               : "memory");
}

// The same, each matrix transposed.
GC_DEVICE void gc_ldmatrix_x4_trans(gc_uint32 (&word)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(gc_shared_address(row))
               : "memory");
}

#define GC_MMA(instruction)                                                                   \
  asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

// d += a b with a of 16 x 16 and b of 16 x 8 numbers. With g = lane / 4 and t = lane % 4:
//   d: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
//   a: (g, 2t..) (g+8, 2t..) (g, 2t+8..) (g+8, 2t+8..), two neighbours of a row in a word
//   b: (2t.., g) (2t+8.., g), two neighbours of a column in a word
GC_DEVICE void gc_mma_bf16(float (&d)[4], const gc_uint32 (&a)[4], const gc_uint32 (&b)[2]) {
  GC_MMA("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
}

GC_DEVICE void gc_mma_f16(float (&d)[4], const gc_uint32 (&a)[4], const gc_uint32 (&b)[2]) {
  GC_MMA("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
}

// d += a b with a of 16 x 8 and b of 8 x 8 numbers of gc_to_tf32; d as above,
//   a: (g, t) (g+8, t) (g, t+4) (g+8, t+4)   b: (t, g) (t+4, g)
GC_DEVICE void gc_mma_tf32(float (&d)[4], const gc_uint32 (&a)[4], const gc_uint32 (&b)[2]) {
  GC_MMA("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32");
}

// ---- Barriers in shared memory and tensor copies, sm_90 ----------------------------------------

// One thread prepares a barrier for `arrivals` arrivals a phase; then gc_fence_async, then a
// barrier of the block.
GC_DEVICE void gc_mbarrier_init(gc_mbarrier *barrier, gc_uint32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(gc_shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// After gc_mbarrier_init, before gc_cluster_sync, where other blocks of the cluster use a barrier.
GC_DEVICE void gc_fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

GC_DEVICE void gc_mbarrier_arrive(gc_mbarrier *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(gc_shared_address(barrier))
               : "memory");
}

// Arrives at this barrier of the block with this rank in the cluster, maybe one's own.
GC_DEVICE void gc_mbarrier_arrive_at(gc_mbarrier *barrier, gc_uint32 rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(gc_shared_address(barrier)),
      "r"(rank)
      : "memory");
}

// Arrives, and lets the phase wait for that many more bytes of tensor copies.
GC_DEVICE void gc_mbarrier_arrive_expect_tx(gc_mbarrier *barrier, gc_uint32 bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(gc_shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Whether the phase of this parity is over; phases are numbered from 0. May sleep for a while.
GC_DEVICE bool gc_mbarrier_try_wait(gc_mbarrier *barrier, gc_uint32 parity) {
  gc_uint32 done;
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
      "selp.u32 %0, 1, 0, over;\n"
      "}"
      : "=r"(done)
      : "r"(gc_shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

GC_DEVICE void gc_mbarrier_wait(gc_mbarrier *barrier, gc_uint32 parity) {
  while (!gc_mbarrier_try_wait(barrier, parity)) {
  }
}

// Between ordinary writes to shared memory and tensor copies or gc_wgmma_bf16 that use them.
GC_DEVICE void gc_fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// One thread copies the map's box that starts at these coordinates, innermost first, to shared
// memory. Elements outside of the tensor arrive as zeros; all bytes of the box count. A multicast
// brings the box to the same place in each block of the cluster whose bit is set in `blocks`, and
// counts at the same barrier of each.
#define GC_TMA_LOAD(rank, names, multicast_names, values, ...)                                  \
  GC_DEVICE void gc_tma_load_##rank##d(void *shared, const gc_tensor_map *map,                  \
                                       gc_mbarrier *barrier, __VA_ARGS__) {                     \
    asm volatile("cp.async.bulk.tensor." #rank                                                  \
                 "d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {" names     \
                 "}], [%2];" ::"r"(gc_shared_address(shared)),                                  \
                 "l"(map), "r"(gc_shared_address(barrier)), values                              \
                 : "memory");                                                                   \
  }                                                                                             \
  GC_DEVICE void gc_tma_multicast_##rank##d(void *shared, const gc_tensor_map *map,             \
                                            gc_mbarrier *barrier, gc_uint32 blocks,             \
                                            __VA_ARGS__) {                                      \
    asm volatile("cp.async.bulk.tensor." #rank                                                  \
                 "d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "    \
                 "[%0], [%1, {" multicast_names "}], [%2], %3;" ::"r"(gc_shared_address(shared)), \
                 "l"(map), "r"(gc_shared_address(barrier)), "h"((gc_uint16)blocks), values      \
                 : "memory");                                                                   \
  }
#define GC_LIST(...) __VA_ARGS__
GC_TMA_LOAD(2, "%3, %4", "%4, %5", GC_LIST("r"(c0), "r"(c1)), int c0, int c1)
GC_TMA_LOAD(3, "%3, %4, %5", "%4, %5, %6", GC_LIST("r"(c0), "r"(c1), "r"(c2)), int c0, int c1,
            int c2)
GC_TMA_LOAD(4, "%3, %4, %5, %6", "%4, %5, %6, %7", GC_LIST("r"(c0), "r"(c1), "r"(c2), "r"(c3)),
            int c0, int c1, int c2, int c3)
GC_TMA_LOAD(5, "%3, %4, %5, %6, %7", "%4, %5, %6, %7, %8",
            GC_LIST("r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)), int c0, int c1, int c2, int c3,
            int c4)

// ---- Blocks of a cluster, sm_90 ----------------------------------------------------------------

// The number of this block in its cluster. A kernel says how many blocks a cluster has, along x,
// by __cluster_dims__ before its __launch_bounds__.
GC_DEVICE gc_uint32 gc_cluster_rank() {
  gc_uint32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all blocks of the cluster meet. No block may end while others still reach it.
GC_DEVICE void gc_cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// ---- Matrix products of four warps, sm_90a -----------------------------------------------------

// Keeps the compiler from moving uses of the accumulator across this point.
template <int Count>
GC_DEVICE void gc_keep_in_place(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// Before the first product after ordinary writes to the accumulator.
template <int Count>
GC_DEVICE void gc_wgmma_fence(float (&d)[Count]) {
  gc_keep_in_place(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

GC_DEVICE void gc_wgmma_commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most Pending groups are under way; only then may d be read.
template <int Pending, int Count>
GC_DEVICE void gc_wgmma_wait_group(float (&d)[Count]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
  gc_keep_in_place(d);
}

#define GC_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define GC_NAMES_16 GC_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define GC_NAMES_32                                                             \
  GC_NAMES_16                                                                   \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30" \
  ", %31"
#define GC_NAMES_64                                                             \
  GC_NAMES_32                                                                   \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46" \
  ", %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61" \
  ", %62, %63"
#define GC_NAMES_96                                                                \
  GC_NAMES_64                                                                      \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78"    \
  ", %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93"    \
  ", %94, %95"
#define GC_NAMES_128                                                               \
  GC_NAMES_96                                                                      \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107"           \
  ", %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120" \
  ", %121, %122, %123, %124, %125, %126, %127"

#define GC_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define GC_D8(i) GC_D4(i), GC_D4(i + 4)
#define GC_D16(i) GC_D8(i), GC_D8(i + 8)
#define GC_D32(i) GC_D16(i), GC_D16(i + 16)
#define GC_D64(i) GC_D32(i), GC_D32(i + 32)
#define GC_D96(i) GC_D64(i), GC_D32(i + 64)
#define GC_D128(i) GC_D64(i), GC_D64(i + 64)

template <int N, class Type>
struct gc_wgmma_width;

// columns, registers = columns / 2, and the numbers of the five operands that follow them
#define GC_WGMMA_OF(type, name, columns, registers, p0, p1, p2, p3, p4)                         \
  template <>                                                                                   \
  struct gc_wgmma_width<columns, type> {                                                        \
    template <bool TransposeA, bool TransposeB>                                                 \
    GC_DEVICE void multiply(float (&d)[registers], gc_uint64 a, gc_uint64 b, bool accumulate) { \
      asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " p2                                 \
                   ", 0;\n"                                                                     \
                   "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." name "." name " "    \
                   "{" GC_NAMES_##registers "}, " p0 ", " p1 ", keep, 1, 1, " p3 ", " p4 ";\n}" \
                   : GC_D##registers(0)                                                         \
                   : "l"(a), "l"(b), "r"((int)accumulate), "n"((int)TransposeA),                \
                     "n"((int)TransposeB)                                                       \
                   : "memory");                                                                 \
    }                                                                                           \
  };
#define GC_WGMMA(...)                       \
  GC_WGMMA_OF(gc_bf16, "bf16", __VA_ARGS__) \
  GC_WGMMA_OF(gc_half, "f16", __VA_ARGS__)
GC_WGMMA(16, 8, "%8", "%9", "%10", "%11", "%12")
GC_WGMMA(32, 16, "%16", "%17", "%18", "%19", "%20")
GC_WGMMA(64, 32, "%32", "%33", "%34", "%35", "%36")
GC_WGMMA(128, 64, "%64", "%65", "%66", "%67", "%68")
GC_WGMMA(192, 96, "%96", "%97", "%98", "%99", "%100")
GC_WGMMA(256, 128, "%128", "%129", "%130", "%131", "%132")

// Starts d = a b (+ d if accumulate), a of 64 x 16 and b of 16 x N bf16 numbers in shared memory,
// for N = 16, 32, 64, 128, 192 or 256. Four warps take part; warp w holds the rows from 16 w on:
//   d[4 j + 2 h + q] is row 16 w + lane / 4 + 8 h, column 8 j + 2 (lane % 4) + q.
// Transpose says that rows of a (columns of b) are contiguous instead of the depth.
template <int N, bool TransposeA = false, bool TransposeB = false>
GC_DEVICE void gc_wgmma_bf16(float (&d)[N / 2], gc_uint64 a, gc_uint64 b, bool accumulate = true) {
  gc_wgmma_width<N, gc_bf16>::template multiply<TransposeA, TransposeB>(d, a, b, accumulate);
}

// The same with half numbers.
template <int N, bool TransposeA = false, bool TransposeB = false>
GC_DEVICE void gc_wgmma_f16(float (&d)[N / 2], gc_uint64 a, gc_uint64 b, bool accumulate = true) {
  gc_wgmma_width<N, gc_half>::template multiply<TransposeA, TransposeB>(d, a, b, accumulate);
}

// The four warps of a warpgroup give up or take registers: a multiple of 8 from 24 to 256 a thread.
template <int Registers>
GC_DEVICE void gc_register_budget_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
GC_DEVICE void gc_register_budget_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

#endif  // __CUDACC__
#endif  // GC_DEVICE_CUH
