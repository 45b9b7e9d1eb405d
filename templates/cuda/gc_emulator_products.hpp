// Matrix products: ldmatrix and mma of a warp, wgmma of four warps.
#pragma once

#include "gc_emulator_copies.hpp"

namespace {

float word_part(const uint32_t word, int part, gc_product kind) {
  const gc_uint16 bits = (gc_uint16)(word >> 16 * part);
  return kind == GC_PRODUCT_HALF ? gc_to_float(gc_half{bits}) : gc_to_float(gc_bf16{bits});
}

// ---- A warp ------------------------------------------------------------------------------------

struct MatrixRows {
  uint32_t *word;
  const void *row;
  bool transpose;
};

void load_matrices(void **arguments) {
  for (int matrix = 0; matrix < 4; matrix++)
    for (int lane = 0; lane < 32; lane++) {
      const MatrixRows &own = *static_cast<MatrixRows *>(arguments[lane]);
      gc_uint16 numbers[2];
      for (int part = 0; part < 2; part++) {
        int row = lane / 4, column = 2 * (lane % 4) + part;
        if (own.transpose) std::swap(row, column);
        const void *source = static_cast<MatrixRows *>(arguments[matrix * 8 + row])->row;
        memcpy(&numbers[part], static_cast<const gc_uint16 *>(source) + column, 2);
      }
      own.word[matrix] = numbers[0] | (uint32_t)numbers[1] << 16;
    }
}

struct Fragments {
  float *d;
  const uint32_t *a, *b;
};

// a of 16 x depth, b of depth x 8; the depth is 16 numbers of 16 bits or 8 of 32.
struct Operands {
  float a[16][16], b[16][8];
};

void unpack_pairs(const Fragments &own, int lane, gc_product kind, Operands &operands) {
  const int group = lane / 4, pair = 2 * (lane % 4);
  for (int part = 0; part < 2; part++)
    for (int half = 0; half < 2; half++) {
      const int depth = pair + 8 * half + part;
      operands.a[group][depth] = word_part(own.a[2 * half], part, kind);
      operands.a[group + 8][depth] = word_part(own.a[2 * half + 1], part, kind);
      operands.b[depth][group] = word_part(own.b[half], part, kind);
    }
}

void unpack_words(const Fragments &own, int lane, Operands &operands) {
  const auto number = [](uint32_t word) { return __uint_as_float(word & 0xFFFFE000); };
  const int group = lane / 4, place = lane % 4;
  for (int half = 0; half < 2; half++) {
    operands.a[group][place + 4 * half] = number(own.a[2 * half]);
    operands.a[group + 8][place + 4 * half] = number(own.a[2 * half + 1]);
    operands.b[place + 4 * half][group] = number(own.b[half]);
  }
}

void multiply(void **arguments, gc_product kind) {
  Operands operands;
  float d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Fragments &own = *static_cast<Fragments *>(arguments[lane]);
    if (kind == GC_PRODUCT_TF32)
      unpack_words(own, lane, operands);
    else
      unpack_pairs(own, lane, kind, operands);
    for (int i = 0; i < 4; i++) d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = own.d[i];
  }
  const int depth = kind == GC_PRODUCT_TF32 ? 8 : 16;
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < depth; k++)
      for (int column = 0; column < 8; column++)
        d[row][column] += operands.a[row][k] * operands.b[k][column];
  for (int lane = 0; lane < 32; lane++) {
    const Fragments &own = *static_cast<Fragments *>(arguments[lane]);
    for (int i = 0; i < 4; i++) own.d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

// ---- Four warps --------------------------------------------------------------------------------

struct GroupProduct {
  float *d;
  uint64_t a, b;
};

// Accumulators of products under way: poison for the kernel until it waits for `group`.
struct Held {
  float *pointer[WARPGROUP];
  unsigned registers, group;
  std::vector<float> values;
};

struct Warpgroup {
  unsigned rank;  // of its block
  unsigned committed, completed;
  std::vector<Held> held;
  unsigned registers, wanted;  // of each thread
  std::vector<Fiber *> waiting;
};

std::vector<Warpgroup> warpgroups;

// Registers of a thread at the launch of a block that has a multiprocessor for itself. There may be
// fewer, as many as the largest budget of the kernel, so that an increase may find more than it asks.
unsigned registers_at_launch(unsigned threads) {
  return std::min(255u, REGISTERS / ((threads + WARP - 1) / WARP * WARP)) / 8 * 8;
}

// Takes what is given up, then gives it to those who wait, as far as it goes.
void grant_registers(Member &member, unsigned rank) {
  for (const bool more : {false, true})
    for (Warpgroup &group : warpgroups) {
      const int needed = ((int)group.wanted - (int)group.registers) * (int)WARPGROUP;
      if (group.rank != rank || !needed || (needed > 0) != more) continue;
      if (needed > (int)member.free_registers) continue;
      member.free_registers -= needed;
      group.registers = group.wanted;
      for (Fiber *fiber : group.waiting) wake(*fiber);
      group.waiting.clear();
    }
}

// The bytes between the elements of a matrix that a gc_wgmma_descriptor describes.
struct Layout {
  uint32_t start, stride, leading;
  unsigned swizzle;
  bool transpose;

  uint32_t element(uint32_t row, uint32_t depth) const {
    const uint32_t wide = swizzle / 2;  // elements in a line of the swizzle
    const uint32_t plain =
        transpose ? row % wide * 2 + row / wide * leading + depth % 8 * swizzle + depth / 8 * stride
                  : row % 8 * swizzle + row / 8 * stride + depth * 2;
    return swizzled(start + plain, swizzle);
  }
};

Layout read_descriptor(uint64_t descriptor, bool transpose, int line) {
  const unsigned swizzles[] = {0, 128, 64, 32};
  const auto field = [&](int shift) { return (uint32_t)(descriptor >> shift & 0x3FFF) << 4; };
  const uint32_t window = block.current->rank * memory.stride;
  const Layout layout{field(0) + window, field(32), field(16), swizzles[descriptor >> 62], transpose};
  if (!layout.swizzle) fail(line, nullptr, "gc_wgmma_bf16: this is no gc_wgmma_descriptor");
  return layout;
}

void read_matrix(const Layout &layout, uint32_t rows, gc_product kind, float *matrix,
                 const Actor &actor, int line) {
  const size_t end =
      memory.dynamic_offset + memory.dynamic_bytes + actor.fiber->rank * memory.stride;
  for (uint32_t row = 0; row < rows; row++)
    for (uint32_t depth = 0; depth < 16; depth++) {
      const uint32_t offset = layout.element(row, depth);
      if (offset + 2 > end)
        fail(line, nullptr,
             "out of bounds: gc_wgmma_bf16 reads %zu bytes past the end of shared "
             "memory, for row %u, depth %u",
             offset + 2 - end, row, depth);
      touch_granule(offset / GRANULE, 3, false, actor, line, nullptr);
      gc_uint16 bits;
      memcpy(&bits, shared_byte(offset), 2);
      matrix[depth * rows + row] = word_part(bits, 0, kind);
    }
}

Held &hold(Warpgroup &group, void **arguments, unsigned registers, bool accumulate) {
  for (Held &held : group.held)
    if (held.pointer[0] == static_cast<GroupProduct *>(arguments[0])->d) {
      if (!accumulate) std::fill(held.values.begin(), held.values.end(), 0.0f);
      return held;
    }
  group.held.push_back(Held{{}, registers, 0, std::vector<float>(WARPGROUP * registers)});
  Held &held = group.held.back();
  for (unsigned thread = 0; thread < WARPGROUP; thread++) {
    held.pointer[thread] = static_cast<GroupProduct *>(arguments[thread])->d;
    if (accumulate)
      memcpy(&held.values[thread * registers], held.pointer[thread], registers * sizeof(float));
    memset(held.pointer[thread], POISON, registers * sizeof(float));
  }
  return held;
}

void add_product(Held &held, const float *a, const float *b, unsigned columns) {
  std::vector<float> d(64 * columns, 0.0f);
  for (unsigned row = 0; row < 64; row++)
    for (unsigned depth = 0; depth < 16; depth++)
      for (unsigned column = 0; column < columns; column++)
        d[row * columns + column] += a[depth * 64 + row] * b[depth * columns + column];
  for (unsigned thread = 0; thread < WARPGROUP; thread++)
    for (unsigned i = 0; i < held.registers; i++) {
      const unsigned row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
      const unsigned column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      held.values[thread * held.registers + i] += d[row * columns + column];
    }
}

void multiply_group(void **arguments, Fiber *fibers, gc_product kind, unsigned columns,
                    bool transpose_a, bool transpose_b, bool accumulate, int line) {
  const unsigned number = fibers->number / WARPGROUP;
  Warpgroup &group = warpgroups[number];
  const GroupProduct &first = *static_cast<GroupProduct *>(arguments[0]);
  for (unsigned thread = 1; thread < WARPGROUP; thread++) {
    const GroupProduct &other = *static_cast<GroupProduct *>(arguments[thread]);
    if (other.a != first.a || other.b != first.b)
      fail(line, nullptr, "gc_wgmma_bf16: threads of one warpgroup pass different descriptors");
  }
  // Any of the four warps may read first: a member drawn at random must be allowed to.
  const Actor actor{&fibers[random_below(WARPGROUP)], FIRST_WARPGROUP_SLOT + number,
                    block.base + group.committed + 1, true};
  std::vector<float> a(64 * 16), b(16 * columns);
  read_matrix(read_descriptor(first.a, transpose_a, line), 64, kind, a.data(), actor, line);
  read_matrix(read_descriptor(first.b, transpose_b, line), columns, kind, b.data(), actor, line);
  Held &held = hold(group, arguments, columns / 2, accumulate);
  held.group = group.committed + 1;
  add_product(held, a.data(), b.data(), columns);
}

void complete_groups(Warpgroup &group, unsigned pending, Fiber *fibers) {
  const unsigned slot = FIRST_WARPGROUP_SLOT + fibers->number / WARPGROUP;
  if (group.committed > group.completed + pending) group.completed = group.committed - pending;
  std::vector<Held> still;
  for (Held &held : group.held) {
    if (held.group > group.completed) {
      still.push_back(std::move(held));
      continue;
    }
    for (unsigned thread = 0; thread < WARPGROUP; thread++)
      memcpy(held.pointer[thread], &held.values[thread * held.registers],
             held.registers * sizeof(float));
  }
  group.held.swap(still);
  for (unsigned thread = 0; thread < WARPGROUP; thread++)
    fibers[thread].seen[slot] = block.base + group.completed;
}

}  // namespace

extern "C" {

void gc_emulated_load_matrices(uint32_t *word, const void *row, bool transpose, int line) {
  const uint32_t offset = expect_shared("gc_ldmatrix", row, 16, 16, line);
  touch_shared(offset, 16, false, self_actor(), line, nullptr);
  MatrixRows own{word, row, transpose};
  meet(block.warps, WARP, transpose ? "gc_ldmatrix_x4_trans" : "gc_ldmatrix_x4", line, &own,
       [&](void **arguments, Fiber *) { load_matrices(arguments); });
}

void gc_emulated_multiply(gc_product kind, float *d, const uint32_t *a, const uint32_t *b,
                          int line) {
  Fragments own{d, a, b};
  meet(block.warps, WARP, "gc_mma", line, &own,
       [&](void **arguments, Fiber *) { multiply(arguments, kind); });
}

void gc_emulated_group_multiply(gc_product kind, float *d, uint64_t a, uint64_t b,
                                unsigned columns, bool transpose_a, bool transpose_b,
                                bool accumulate, int line) {
  GroupProduct own{d, a, b};
  meet(block.warpgroups, WARPGROUP, "gc_wgmma", line, &own, [&](void **arguments, Fiber *fibers) {
    multiply_group(arguments, fibers, kind, columns, transpose_a, transpose_b, accumulate, line);
  });
}

void gc_emulated_group_commit(int line) {
  meet(block.warpgroups, WARPGROUP, "gc_wgmma_commit_group", line, nullptr,
       [](void **, Fiber *fibers) { warpgroups[fibers->number / WARPGROUP].committed++; });
}

void gc_emulated_group_wait(unsigned pending, int line) {
  meet(block.warpgroups, WARPGROUP, "gc_wgmma_wait_group", line, nullptr,
       [&](void **, Fiber *fibers) {
         complete_groups(warpgroups[fibers->number / WARPGROUP], pending, fibers);
       });
}

void gc_emulated_register_budget(unsigned registers, bool more, int line) {
  const char *name = more ? "gc_register_budget_increase" : "gc_register_budget_decrease";
  meet(block.warpgroups, WARPGROUP, name, line, nullptr, [&](void **, Fiber *fibers) {
    Warpgroup &group = warpgroups[fibers->number / WARPGROUP];
    if (!more && registers > group.registers)
      fail(line, nullptr, "%s to %u registers a thread, it has %u", name, registers,
           group.registers);
    group.wanted = registers;
    grant_registers(block.members[fibers->rank], fibers->rank);
  });
  Warpgroup &own = warpgroups[block.current->number / WARPGROUP];
  if (own.registers == registers) return;
  own.waiting.push_back(block.current);
  suspend(name, line);
}

}  // extern "C"
