// The wrappers of gc_device.cuh and the CUDA words that kernels use, for a CPU: what a kernel's
// text includes when a C++ compiler reads it. The work is done in gc_emulator.cpp, by the
// gc_emulated_ functions declared here. Loads and stores need no words: the compiler's thread
// sanitizer turns each into a call, and gc_emulator.cpp answers these calls itself.
#ifndef GC_EMULATOR_HPP
#define GC_EMULATOR_HPP

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#define GC_DEVICE static inline __attribute__((unused))
#define GC_MEMBER inline
#define __global__ __attribute__((noinline))
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)  // emulator.py reads it
#define __align__(bytes) __attribute__((aligned(bytes)))
// One block runs at a time, so that a block's array is a static one, in a section of the kernel's
// file where gc_emulator.cpp finds it. `used` keeps stores that nobody in this file reads.
#define __shared__ static __attribute__((section(GC_SHARED_SECTION), used))
#define GC_DYNAMIC_SHARED(name) unsigned char *const name = gc_emulated_dynamic_shared()

// A wrapper gets the line of the kernel that calls it.
#define GC_LINE int line = __builtin_LINE()

struct gc_index {
  unsigned x, y, z;
};

enum gc_product { GC_PRODUCT_BF16, GC_PRODUCT_HALF, GC_PRODUCT_TF32 };

#pragma GCC visibility push(hidden)
extern "C" {
// Constant for the thread that asks, which is all that a compiler may conclude from the attribute.
gc_index gc_emulated_thread_index() __attribute__((const));
gc_index gc_emulated_block_index() __attribute__((const));
gc_index gc_emulated_block_size() __attribute__((const));
gc_index gc_emulated_grid_size() __attribute__((const));
unsigned gc_emulated_cluster_rank() __attribute__((const));
unsigned char *gc_emulated_dynamic_shared() __attribute__((const));
uint32_t gc_emulated_shared_address(const void *shared, int line);
void gc_emulated_barrier(unsigned number, unsigned threads, bool waits, int line);
void gc_emulated_syncwarp(int line);
void gc_emulated_cluster_sync(int line);
uint32_t gc_emulated_shuffle(const char *what, uint32_t value, int lane, int line);
void gc_emulated_atomic_add(float *address, float value, int line);
void gc_emulated_copy(void *shared, const void *global, unsigned bytes, bool valid, int line);
void gc_emulated_copy_commit();
void gc_emulated_copy_wait(unsigned pending);
void gc_emulated_load_matrices(uint32_t *word, const void *row, bool transpose, int line);
void gc_emulated_multiply(gc_product kind, float *d, const uint32_t *a, const uint32_t *b,
                          int line);
void gc_emulated_mbarrier_init(gc_mbarrier *barrier, unsigned arrivals, int line);
void gc_emulated_fence_mbarrier_init();
void gc_emulated_mbarrier_arrive(gc_mbarrier *barrier, unsigned bytes, unsigned rank, int line);
void gc_emulated_mbarrier_wait(gc_mbarrier *barrier, unsigned parity, int line);
void gc_emulated_fence_async();
void gc_emulated_tensor_load(void *shared, const gc_tensor_map *map, gc_mbarrier *barrier,
                             const int *coordinates, unsigned rank, unsigned blocks, int line);
void gc_emulated_group_multiply(gc_product kind, float *d, uint64_t a, uint64_t b,
                                unsigned columns, bool transpose_a, bool transpose_b,
                                bool accumulate, int line);
void gc_emulated_group_commit(int line);
void gc_emulated_group_wait(unsigned pending, int line);
void gc_emulated_register_budget(unsigned registers, bool more, int line);
}
#pragma GCC visibility pop

#define threadIdx (gc_emulated_thread_index())
#define blockIdx (gc_emulated_block_index())
#define blockDim (gc_emulated_block_size())
#define gridDim (gc_emulated_grid_size())

// ---- What CUDA has built in --------------------------------------------------------------------

#define GC_VECTOR(name, type, bytes, fields, arguments, values) \
  struct alignas(bytes) name {                                  \
    type fields;                                                \
  };                                                            \
  GC_DEVICE name make_##name arguments { return name values; }
#define GC_VECTORS_OF(name, type, size)                                                     \
  GC_VECTOR(name##2, type, 2 * size, GC_LIST(x, y), (type x, type y), GC_VALUES(x, y))      \
  GC_VECTOR(name##4, type, 4 * size, GC_LIST(x, y, z, w), (type x, type y, type z, type w), \
            GC_VALUES(x, y, z, w))
#define GC_LIST(...) __VA_ARGS__
#define GC_VALUES(...) {__VA_ARGS__}
GC_VECTORS_OF(float, float, 4)
GC_VECTORS_OF(int, int, 4)
GC_VECTORS_OF(uint, unsigned, 4)
GC_VECTORS_OF(ushort, unsigned short, 2)
GC_VECTOR(double2, double, 16, GC_LIST(x, y), (double x, double y), GC_VALUES(x, y))

template <class To, class From>
GC_DEVICE To gc_same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the sizes differ");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

GC_DEVICE float __uint_as_float(unsigned x) { return gc_same_bits<float>(x); }
GC_DEVICE unsigned __float_as_uint(float x) { return gc_same_bits<unsigned>(x); }
GC_DEVICE float __int_as_float(int x) { return gc_same_bits<float>(x); }
GC_DEVICE int __float_as_int(float x) { return gc_same_bits<int>(x); }
GC_DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
GC_DEVICE double rsqrt(double x) { return 1.0 / sqrt(x); }
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __fdividef(x, y) ((x) / (y))
GC_DEVICE int min(int a, int b) { return a < b ? a : b; }
GC_DEVICE int max(int a, int b) { return a > b ? a : b; }
template <class Type>
GC_DEVICE Type __ldg(const Type *address) {
  return *address;
}

// ---- Numbers of 16 bits, rounded to nearest, ties to even --------------------------------------

GC_DEVICE gc_bf16 gc_to_bf16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return gc_bf16{0x7FFF};
  return gc_bf16{(gc_uint16)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

GC_DEVICE gc_half gc_to_half(float x) {
  const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7FFFFFFF;
  const gc_uint16 sign = (gc_uint16)(bits >> 16 & 0x8000);
  if (x != x) return gc_half{0x7FFF};
  if (magnitude >= 0x47800000) return gc_half{(gc_uint16)(sign | 0x7C00)};
  if (magnitude < 0x38800000)  // subnormal: the sum rounds to a multiple of 2^-24
    return gc_half{(gc_uint16)(sign | (__float_as_uint(fabsf(x) + 0.5f) - 0x3F000000))};
  const uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return gc_half{(gc_uint16)(sign | (rounded - 0x38000000) >> 13)};
}

GC_DEVICE float gc_to_float(gc_half x) {
  const uint32_t exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  const float sign = x.bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * (float)fraction * 0x1p-24f;
  return sign * __uint_as_float((exponent + 112) << 23 | fraction << 13);
}

GC_DEVICE uint32_t gc_pack_bf16(float low, float high) {
  return gc_to_bf16(low).bits | (uint32_t)gc_to_bf16(high).bits << 16;
}

GC_DEVICE uint32_t gc_pack_half(float low, float high) {
  return gc_to_half(low).bits | (uint32_t)gc_to_half(high).bits << 16;
}

GC_DEVICE uint32_t gc_to_tf32(float x) {
  const uint32_t bits = __float_as_uint(x);
  return x != x || isinf(x) ? bits : (bits + 0x1000) & 0xFFFFE000;
}

// ---- The wrappers of sm_80 ---------------------------------------------------------------------

GC_DEVICE uint32_t gc_shared_address(const void *shared, GC_LINE) {
  return gc_emulated_shared_address(shared, line);
}

GC_DEVICE void gc_syncthreads(GC_LINE) { gc_emulated_barrier(0, 0, true, line); }
GC_DEVICE void gc_syncwarp(GC_LINE) { gc_emulated_syncwarp(line); }
GC_DEVICE void gc_barrier_sync(unsigned number, unsigned threads, GC_LINE) {
  gc_emulated_barrier(number, threads, true, line);
}
GC_DEVICE void gc_barrier_arrive(unsigned number, unsigned threads, GC_LINE) {
  gc_emulated_barrier(number, threads, false, line);
}

GC_DEVICE int gc_own_lane() {
  const gc_index thread = threadIdx, size = blockDim;
  return (int)((thread.x + size.x * (thread.y + size.y * thread.z)) % 32);
}

template <class Type>
GC_DEVICE Type gc_shfl(Type value, int lane, GC_LINE) {
  const uint32_t word = gc_same_bits<uint32_t>(value);
  return gc_same_bits<Type>(gc_emulated_shuffle("gc_shfl", word, lane & 31, line));
}

template <class Type>
GC_DEVICE Type gc_shfl_xor(Type value, int mask, GC_LINE) {
  const uint32_t word = gc_same_bits<uint32_t>(value);
  const int lane = (gc_own_lane() ^ mask) & 31;
  return gc_same_bits<Type>(gc_emulated_shuffle("gc_shfl_xor", word, lane, line));
}

template <class Type>
GC_DEVICE Type gc_shfl_down(Type value, int distance, GC_LINE) {
  const uint32_t word = gc_same_bits<uint32_t>(value);
  const int own = gc_own_lane(), lane = own + distance < 32 ? own + distance : own;
  return gc_same_bits<Type>(gc_emulated_shuffle("gc_shfl_down", word, lane, line));
}

GC_DEVICE void gc_atomic_add(float *address, float value, GC_LINE) {
  gc_emulated_atomic_add(address, value, line);
}

GC_DEVICE void gc_cp_async16(void *shared, const void *global, bool valid = true, GC_LINE) {
  gc_emulated_copy(shared, global, 16, valid, line);
}
GC_DEVICE void gc_cp_async8(void *shared, const void *global, bool valid = true, GC_LINE) {
  gc_emulated_copy(shared, global, 8, valid, line);
}
GC_DEVICE void gc_cp_async4(void *shared, const void *global, bool valid = true, GC_LINE) {
  gc_emulated_copy(shared, global, 4, valid, line);
}
GC_DEVICE void gc_cp_async_commit_group() { gc_emulated_copy_commit(); }
template <int Pending>
GC_DEVICE void gc_cp_async_wait_group() {
  gc_emulated_copy_wait(Pending);
}

GC_DEVICE void gc_ldmatrix_x4(uint32_t (&word)[4], const void *row, GC_LINE) {
  gc_emulated_load_matrices(word, row, false, line);
}
GC_DEVICE void gc_ldmatrix_x4_trans(uint32_t (&word)[4], const void *row, GC_LINE) {
  gc_emulated_load_matrices(word, row, true, line);
}

GC_DEVICE void gc_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], GC_LINE) {
  gc_emulated_multiply(GC_PRODUCT_BF16, d, a, b, line);
}
GC_DEVICE void gc_mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], GC_LINE) {
  gc_emulated_multiply(GC_PRODUCT_HALF, d, a, b, line);
}
GC_DEVICE void gc_mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], GC_LINE) {
  gc_emulated_multiply(GC_PRODUCT_TF32, d, a, b, line);
}

// ---- The wrappers of sm_90a --------------------------------------------------------------------

constexpr unsigned gc_own_block = UINT32_MAX;

GC_DEVICE void gc_mbarrier_init(gc_mbarrier *barrier, unsigned arrivals, GC_LINE) {
  gc_emulated_mbarrier_init(barrier, arrivals, line);
}
GC_DEVICE void gc_mbarrier_arrive(gc_mbarrier *barrier, GC_LINE) {
  gc_emulated_mbarrier_arrive(barrier, 0, gc_own_block, line);
}
GC_DEVICE void gc_mbarrier_arrive_expect_tx(gc_mbarrier *barrier, unsigned bytes, GC_LINE) {
  gc_emulated_mbarrier_arrive(barrier, bytes, gc_own_block, line);
}
GC_DEVICE void gc_mbarrier_arrive_at(gc_mbarrier *barrier, unsigned rank, GC_LINE) {
  gc_emulated_mbarrier_arrive(barrier, 0, rank, line);
}
// It sleeps until the phase is over, which a device may do as well.
GC_DEVICE bool gc_mbarrier_try_wait(gc_mbarrier *barrier, unsigned parity, GC_LINE) {
  gc_emulated_mbarrier_wait(barrier, parity, line);
  return true;
}
GC_DEVICE void gc_mbarrier_wait(gc_mbarrier *barrier, unsigned parity, GC_LINE) {
  gc_emulated_mbarrier_wait(barrier, parity, line);
}
GC_DEVICE void gc_fence_async() { gc_emulated_fence_async(); }
GC_DEVICE void gc_fence_mbarrier_init() { gc_emulated_fence_mbarrier_init(); }

GC_DEVICE unsigned gc_cluster_rank() { return gc_emulated_cluster_rank(); }
GC_DEVICE void gc_cluster_sync(GC_LINE) { gc_emulated_cluster_sync(line); }

#define GC_TMA_LOAD(rank, places, ...)                                                           \
  GC_DEVICE void gc_tma_load_##rank##d(void *shared, const gc_tensor_map *map,                   \
                                       gc_mbarrier *barrier, __VA_ARGS__, GC_LINE) {             \
    const int coordinates[] = {places};                                                          \
    gc_emulated_tensor_load(shared, map, barrier, coordinates, rank, 1u << gc_cluster_rank(),    \
                            line);                                                               \
  }                                                                                              \
  GC_DEVICE void gc_tma_multicast_##rank##d(void *shared, const gc_tensor_map *map,              \
                                            gc_mbarrier *barrier, unsigned blocks, __VA_ARGS__,  \
                                            GC_LINE) {                                           \
    const int coordinates[] = {places};                                                          \
    gc_emulated_tensor_load(shared, map, barrier, coordinates, rank, (gc_uint16)blocks, line);   \
  }
GC_TMA_LOAD(2, GC_LIST(c0, c1), int c0, int c1)
GC_TMA_LOAD(3, GC_LIST(c0, c1, c2), int c0, int c1, int c2)
GC_TMA_LOAD(4, GC_LIST(c0, c1, c2, c3), int c0, int c1, int c2, int c3)
GC_TMA_LOAD(5, GC_LIST(c0, c1, c2, c3, c4), int c0, int c1, int c2, int c3, int c4)

template <int Count>
GC_DEVICE void gc_wgmma_fence(float (&)[Count]) {}
GC_DEVICE void gc_wgmma_commit_group(GC_LINE) { gc_emulated_group_commit(line); }
template <int Pending, int Count>
GC_DEVICE void gc_wgmma_wait_group(float (&)[Count], GC_LINE) {
  gc_emulated_group_wait(Pending, line);
}
template <int N, bool TransposeA = false, bool TransposeB = false>
GC_DEVICE void gc_wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true,
                             GC_LINE) {
  static_assert(N == 16 || N == 32 || (N % 64 == 0 && N <= 256), "no such width");
  gc_emulated_group_multiply(GC_PRODUCT_BF16, d, a, b, N, TransposeA, TransposeB, accumulate, line);
}
template <int N, bool TransposeA = false, bool TransposeB = false>
GC_DEVICE void gc_wgmma_f16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true,
                            GC_LINE) {
  static_assert(N == 16 || N == 32 || (N % 64 == 0 && N <= 256), "no such width");
  gc_emulated_group_multiply(GC_PRODUCT_HALF, d, a, b, N, TransposeA, TransposeB, accumulate, line);
}

template <int Registers>
GC_DEVICE void gc_register_budget_decrease(GC_LINE) {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0, "no such budget");
  gc_emulated_register_budget(Registers, false, line);
}
template <int Registers>
GC_DEVICE void gc_register_budget_increase(GC_LINE) {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0, "no such budget");
  gc_emulated_register_budget(Registers, true, line);
}

// ---- How a launch calls a kernel ---------------------------------------------------------------

template <class... Types, size_t... Numbers>
GC_DEVICE __attribute__((no_sanitize("thread"))) void gc_call_each(
    void (*kernel)(Types...), void **arguments, std::index_sequence<Numbers...>) {
  kernel(*static_cast<Types *>(arguments[Numbers])...);
}

template <class... Types>
GC_DEVICE __attribute__((no_sanitize("thread"))) void gc_call(void (*kernel)(Types...),
                                                              void **arguments) {
  gc_call_each(kernel, arguments, std::index_sequence_for<Types...>{});
}

template <class... Types>
GC_DEVICE __attribute__((no_sanitize("thread"))) int gc_parameter_sizes(void (*)(Types...),
                                                                        unsigned *sizes) {
  const unsigned all[] = {0u, (unsigned)sizeof(Types)...};
  memcpy(sizes, all + 1, sizeof all - sizeof *all);
  return (int)sizeof...(Types);
}

// Exports name_emulated, which calls a kernel, and name_parameters, which tells the bytes of each
// parameter. It stands after the text of the kernel, in a file of its own.
// The linker defines where the section of its `__shared__` arrays starts and stops.
#define GC_EMULATE(name, section)                                                                 \
  extern "C" __attribute__((weak, visibility("hidden"))) uint8_t __start_##section[];             \
  extern "C" __attribute__((weak, visibility("hidden"))) uint8_t __stop_##section[];              \
  extern "C" __attribute__((visibility("default"), no_sanitize("thread"))) size_t name##_shared(  \
      uint8_t **start) {                                                                          \
    *start = __start_##section;                                                                   \
    return __start_##section ? __stop_##section - __start_##section : 0;                          \
  }                                                                                               \
  extern "C" __attribute__((visibility("default"), no_sanitize("thread"))) void name##_emulated(  \
      void **arguments) {                                                                         \
    gc_call(name, arguments);                                                                     \
  }                                                                                               \
  extern "C" __attribute__((visibility("default"), no_sanitize("thread"))) int name##_parameters( \
      unsigned *sizes) {                                                                          \
    return gc_parameter_sizes(name, sizes);                                                       \
  }

#endif  // GC_EMULATOR_HPP
