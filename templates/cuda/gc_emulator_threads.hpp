// The threads of one block, or of the blocks of one cluster, as fibers: who may run, who waits for
// what, what each has seen.
//
// Happens-before is kept by vector clocks. Every thread, mbarrier and warpgroup owns a slot; `seen`
// of a thread tells, for each slot, up to which of its times everything is known to have happened.
#pragma once

#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <vector>

#include "gc_device.cuh"

#if !defined(__x86_64__) || defined(GC_PORTABLE_SWITCH)
#define GC_PORTABLE_SWITCH 1
#include <ucontext.h>
#endif

namespace {

constexpr unsigned WARP = 32, WARPGROUP = 128, MAX_THREADS = 1024, NAMED_BARRIERS = 16;
constexpr unsigned MAX_TOGETHER = 2 * MAX_THREADS;  // threads of all blocks of a cluster
constexpr unsigned MBARRIERS = 64, WARPGROUPS = MAX_TOGETHER / WARPGROUP;
constexpr unsigned FIRST_WARPGROUP_SLOT = MBARRIERS, FIRST_THREAD_SLOT = MBARRIERS + WARPGROUPS;
constexpr unsigned REGISTERS = 1 << 16, OWN_BLOCK = UINT32_MAX;
constexpr size_t STACK_BYTES = 256 << 10, PAGE_BYTES = 4 << 10;
constexpr uint64_t MANY_ACCESSES = 1 << 26;  // of one thread without waiting once: about a second

using Clocks = std::vector<uint32_t>;

// ---- What the driver and this library tell each other; emulator.py has the same structures ------

struct Region {  // memory that a kernel may touch
  uint8_t *address;
  uint64_t bytes;
  uint8_t *written;  // a flag for each byte
  uint64_t parameter;
};

struct Launch {
  void (*call)(void **);
  void **arguments;
  Region *regions;  // sorted, without overlap
  uint8_t *arrays;  // the `__shared__` ones of the kernel's file
  uint64_t array_bytes;
  uint64_t seed;
  uint32_t region_count, shared_bytes;
  gc_index grid, block;
  uint32_t cluster;  // blocks along x that run together
};

struct Failure {
  char what[1024];
  uint64_t offset;  // of the instruction in this library, 0 if the line is known
  gc_index block, thread;
  int32_t line, in_thread;
};

// ---- Switching between stacks ------------------------------------------------------------------

#ifndef GC_PORTABLE_SWITCH
struct Context {
  void *stack_pointer;
};

extern "C" void gc_switch_stack(void **save, void *load) __attribute__((visibility("hidden")));
asm(R"(
.text
.hidden gc_switch_stack
.globl gc_switch_stack
.type gc_switch_stack, @function
gc_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size gc_switch_stack, .-gc_switch_stack
)");

void prepare(Context &context, uint8_t *stack, void (*entry)()) {
  void **top = reinterpret_cast<void **>(stack + STACK_BYTES);
  *--top = nullptr;  // where `entry` would return to
  *--top = reinterpret_cast<void *>(entry);
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  context.stack_pointer = top;
}

void switch_context(Context &from, Context &to) {
  gc_switch_stack(&from.stack_pointer, to.stack_pointer);
}
#else
struct Context {
  ucontext_t state;
};

void prepare(Context &context, uint8_t *stack, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack;
  context.state.uc_stack.ss_size = STACK_BYTES;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}

void switch_context(Context &from, Context &to) { swapcontext(&from.state, &to.state); }
#endif

// ---- One block ---------------------------------------------------------------------------------

struct Copy {  // a gc_cp_async that may not have landed
  uint8_t *to;
  const uint8_t *from;
  uint32_t offset, bytes;  // offset: in shared memory
  bool valid, landed;
};
using CopyGroup = std::vector<Copy>;

struct Fiber {
  Context context;
  uint8_t *stack;
  unsigned number, rank;  // among all that run together; of its block in the cluster
  gc_index index;
  bool finished;
  const char *waits_for;  // nullptr: may run
  int line;               // where it waits
  uint32_t *seen;         // a row of block.seen
  Clocks fenced;          // what it had seen at its last gc_fence_async
  CopyGroup open;
  std::vector<CopyGroup> groups;
  uint64_t accesses;  // since it last waited

  unsigned slot() const { return FIRST_THREAD_SLOT + number; }
  uint32_t clock() const { return seen[slot()]; }
  void tick() { seen[slot()]++; }
};

struct Barrier {
  unsigned expected, arrived;
  int line;
  Clocks seen;
  std::vector<Fiber *> waiting;
};

struct Meeting {  // all threads of a warp, or of a warpgroup, at one instruction
  const char *what;
  int line;
  unsigned arrived;
  void *argument[WARPGROUP];
};

// A block of a cluster: what belongs to it alone.
struct Member {
  gc_index index;
  unsigned live;
  Clocks reached;  // when threads of other blocks last arrived at its mbarriers
  unsigned free_registers;
};

// What runs at once: the blocks of one cluster, mostly a single one.
struct Block {
  const Launch *launch;
  Failure *failure;
  bool failed;
  std::vector<Member> members;
  unsigned threads, slots, live;  // threads: of one block
  uint32_t base;  // every clock up to this one is of an earlier block
  uint64_t random_state;
  Context scheduler;
  Fiber *current;
  std::vector<Fiber> fibers;
  std::vector<Fiber *> ready;
  Clocks seen;
  std::vector<Barrier> barriers;  // those of each block in turn
  Barrier cluster_barrier;
  std::vector<Meeting> warps, warpgroups;
  uint8_t *stacks;
};

Block block;

uint64_t random_number() {  // splitmix64
  uint64_t x = block.random_state += 0x9E3779B97F4A7C15ull;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

unsigned random_below(size_t count) { return (unsigned)(random_number() % count); }

// ---- Failures ----------------------------------------------------------------------------------

void report(int line, const void *code, const char *format, va_list values) {
  if (block.failed) return;
  Failure &failure = *block.failure;
  block.failed = true;
  vsnprintf(failure.what, sizeof failure.what, format, values);
  failure.line = line;
  Dl_info image;
  if (code && dladdr(code, &image))
    failure.offset = static_cast<const uint8_t *>(code) - static_cast<uint8_t *>(image.dli_fbase);
  if (!block.members.empty())
    failure.block = block.members[block.current ? block.current->rank : 0].index;
  failure.in_thread = block.current != nullptr;
  if (block.current) failure.thread = block.current->index;
}

__attribute__((format(printf, 2, 3))) void report_block(int line, const char *format, ...) {
  va_list values;
  va_start(values, format);
  report(line, nullptr, format, values);
  va_end(values);
}

// Ends the launch. A thread never comes back from it.
[[noreturn]] __attribute__((format(printf, 3, 4))) void fail(int line, const void *code,
                                                             const char *format, ...) {
  va_list values;
  va_start(values, format);
  report(line, code, format, values);
  va_end(values);
  if (!block.current) abort();  // only threads fail
  for (;;) switch_context(block.current->context, block.scheduler);
}

// ---- Waiting and waking ------------------------------------------------------------------------

void suspend(const char *what, int line) {
  Fiber &self = *block.current;
  self.waits_for = what;
  self.line = line;
  self.accesses = 0;
  switch_context(self.context, block.scheduler);
}

void wake(Fiber &fiber) {
  fiber.waits_for = nullptr;
  block.ready.push_back(&fiber);
}

void join(uint32_t *into, const uint32_t *from) {
  for (unsigned slot = 0; slot < block.slots; slot++) into[slot] = std::max(into[slot], from[slot]);
}

// Arrives at a barrier for `expected` threads, and waits there if `waits`.
void come_to(Barrier &barrier, const char *name, unsigned expected, bool waits, int line) {
  Fiber &self = *block.current;
  barrier.expected = expected;
  barrier.line = line;
  join(barrier.seen.data(), self.seen);
  if (waits) barrier.waiting.push_back(&self);
  if (++barrier.arrived < expected) {
    if (waits) return suspend(name, line);
    return self.tick();
  }
  for (Fiber *fiber : barrier.waiting) {
    join(fiber->seen, barrier.seen.data());
    fiber->tick();
    if (fiber != &self) wake(*fiber);
  }
  if (!waits) self.tick();
  barrier.waiting.clear();
  barrier.arrived = 0;
  std::fill(barrier.seen.begin(), barrier.seen.end(), 0);
}

void come_to_barrier(unsigned number, unsigned expected, bool waits, int line) {
  Barrier &barrier = block.barriers[block.current->rank * NAMED_BARRIERS + number];
  const char *name = number ? "gc_barrier_sync" : "gc_syncthreads";
  if (number && barrier.arrived && barrier.expected != expected)
    fail(line, nullptr, "barrier %u: here for %u threads, at line %d for %u", number, expected,
         barrier.line, barrier.expected);
  if (!number && barrier.arrived && barrier.line != line)
    fail(line, nullptr, "divergent barrier: it comes to %s here, other threads wait at line %d",
         name, barrier.line);
  come_to(barrier, name, expected, waits, line);
}

// Threads of one block in groups of `size`: which group one is in, and the first of the group.
struct GroupPlace {
  unsigned group, first;
};

GroupPlace group_place(const Fiber &fiber, unsigned size) {
  const unsigned own = fiber.number % block.threads / size;
  const unsigned each = (block.threads + size - 1) / size;
  return GroupPlace{fiber.rank * each + own, fiber.rank * block.threads + own * size};
}

// The last of `size` threads does the work with what all brought along; then all go on.
template <class Work>
void meet(std::vector<Meeting> &meetings, unsigned size, const char *what, int line, void *argument,
          Work work) {
  Fiber &self = *block.current;
  const auto [group, first] = group_place(self, size);
  if (first + size > (self.rank + 1) * block.threads)
    fail(line, nullptr, "%s needs groups of %u threads, the block has %u threads", what, size,
         block.threads);
  Meeting &meeting = meetings[group];
  if (meeting.arrived && (meeting.line != line || strcmp(meeting.what, what)))
    fail(line, nullptr,
         "divergent warp: it comes to %s here, others of its %s wait for %s at line %d", what,
         size == WARP ? "warp" : "warpgroup", meeting.what, meeting.line);
  meeting.what = what;
  meeting.line = line;
  meeting.argument[self.number - first] = argument;
  if (++meeting.arrived < size) return suspend(what, line);
  meeting.arrived = 0;
  work(meeting.argument, &block.fibers[first]);
  for (unsigned other = first; other < first + size; other++)
    if (other != self.number) wake(block.fibers[other]);
}

// ---- Deadlock ----------------------------------------------------------------------------------

std::string thread_ranges(const std::vector<unsigned> &numbers) {
  std::string text = numbers.size() == 1 ? "thread" : "threads";
  for (size_t first = 0, parts = 0; first < numbers.size(); parts++) {
    if (parts == 4) return text + " ...";
    size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) last++;
    text += (parts ? "," : "") + (" " + std::to_string(numbers[first]));
    if (last > first) text += "-" + std::to_string(numbers[last]);
    first = last + 1;
  }
  return text;
}

std::string wait_of(const Fiber &fiber) {
  const std::string where =
      block.members.size() > 1 ? " in block " + std::to_string(fiber.rank) + " of the cluster" : "";
  if (fiber.finished) return "finished" + where;
  return "wait for " + std::string(fiber.waits_for) + " (line " + std::to_string(fiber.line) + ")" +
         where;
}

void report_deadlock() {
  std::vector<std::string> kinds;
  std::vector<std::vector<unsigned>> members;
  const Fiber *first = nullptr;
  bool barrier = false, meeting = false;
  for (const Fiber &fiber : block.fibers) {
    const std::string kind = wait_of(fiber);
    const size_t place = std::find(kinds.begin(), kinds.end(), kind) - kinds.begin();
    if (place == kinds.size()) kinds.push_back(kind), members.emplace_back();
    members[place].push_back(fiber.number % block.threads);
    if (fiber.finished) continue;
    first = first ? first : &fiber;
    barrier |= !strcmp(fiber.waits_for, "gc_syncthreads");
    meeting |= block.warps.size() && block.warps[group_place(fiber, WARP).group].arrived;
  }
  std::string text = barrier ? "divergent barrier" : meeting ? "divergent warp" : "deadlock";
  for (size_t kind = 0; kind < kinds.size() && kind < 8; kind++)
    text += (kind ? "; " : ": ") + thread_ranges(members[kind]) + " " + kinds[kind];
  report_block(first ? first->line : 0, "%s", text.c_str());
}

}  // namespace
