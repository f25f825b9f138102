// The engine's kernels for one width, and who runs their threads.

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "cuda_ptx.h"

namespace nearest {
#include "cuda_nearest.cu"
}
namespace rows {
#include "cuda_rows.cu"
}

constexpr size_t STACK_BYTES = 1 << 16;

using Arguments = void**;
using Run = void (*)(Arguments);

static ucontext_t beginnings[MOST_THREADS];
static jmp_buf places[MOST_THREADS], scheduler;  // a jump takes a tenth of a context's time
static enum { WAITS_TO_BEGIN, WAITS, HAS_ENDED } states[MOST_THREADS];
static Run running;
static Arguments given;

void let_others_go_on() {
    const Place here = threadIdx;
    if (!_setjmp(places[here.x])) _longjmp(scheduler, 1);
    threadIdx = here;
}

static void run_thread() {
    running(given);
    states[threadIdx.x] = HAS_ENDED;
    living--;
    _longjmp(scheduler, 1);
}

static void go_on(int thread) {
    if (states[thread] == HAS_ENDED || _setjmp(scheduler)) return;
    threadIdx.x = thread;
    if (states[thread] == WAITS) _longjmp(places[thread], 1);
    states[thread] = WAITS;
    setcontext(&beginnings[thread]);
}

template <auto KERNEL>
struct Kernel;
template <class... Kinds, void (*KERNEL)(Kinds...)>
struct Kernel<KERNEL> {
    template <size_t... PLACES>
    static void call(Arguments all, std::index_sequence<PLACES...>) {
        KERNEL(*static_cast<Kinds*>(all[PLACES])...);
    }
    static void run(Arguments all) { call(all, std::index_sequence_for<Kinds...>()); }
};

static const std::map<std::string, Run> kernels = {
    {"best_of_groups", Kernel<nearest::best_of_groups>::run},
    {"choose_groups", Kernel<nearest::choose_groups>::run},
    {"score_groups", Kernel<nearest::score_groups>::run},
    {"choose_rows", Kernel<nearest::choose_rows>::run},
    {"lay_out", Kernel<rows::lay_out>::run},
};

extern "C" bool has_kernel(const char* name) { return kernels.count(name); }

extern "C" void launch(const char* name, unsigned across, unsigned down, int threads, Arguments all) {
    static std::mutex one_at_a_time;
    static char* const stacks = static_cast<char*>(
        mmap(nullptr, MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    const std::lock_guard lock(one_at_a_time);
    running = kernels.at(name), given = all, gridDim = {across, down};
    for (blockIdx.y = 0; blockIdx.y < down; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < across; blockIdx.x++) {
            living = threads, block_barrier = {};
            for (int one = 0; one < threads; one++) {
                states[one] = WAITS_TO_BEGIN, warp_barriers[one / WARP] = {}, on_their_way[one] = {};
                getcontext(&beginnings[one]);
                beginnings[one].uc_stack = {stacks + one * STACK_BYTES, 0, STACK_BYTES};
                makecontext(&beginnings[one], run_thread, 0);
            }
            while (living)
                for (int one = 0; one < threads; one++) go_on(one);
        }
}
