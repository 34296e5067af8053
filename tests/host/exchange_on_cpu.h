// What cluster.cuh and mailbox.cuh have, on a CPU.
#pragma once

template <class T>
T* remote(T* address, int rank) {
    auto offset = reinterpret_cast<unsigned char*>(address) - dynamic_shared();
    return reinterpret_cast<T*>((*blocks)[rank].memory.data() + offset);
}

struct alignas(8) Signal {
    int bytes;
    short pending, phases;
};

static void count(Signal* signal, int bytes) {
    signal->bytes += bytes;
    if (signal->bytes == 0 && signal->pending == 0) signal->pending = 1, signal->phases++;
}

static void init_signal(Signal* signal) { *signal = {0, 1, 0}; }
static void expect(Signal* signal, int bytes) { signal->pending--, count(signal, bytes); }
static void wait_for(Signal* signal, int parity) {
    while ((signal->phases & 1) == parity) give_way();
}

template <class T>
void push(T* address, int rank, T value, Signal* signal) {
    *remote(address, rank) = value;
    count(remote(signal, rank), -int(sizeof value));
}

struct Remote {
    Sample* samples;
    Signal* signal;
};

static Remote remote_samples(Sample* samples, int rank, Signal* signal) {
    return {remote(samples, rank), remote(signal, rank)};
}

static void push(Remote to, int index, Sample value) {
    to.samples[index] = value;
    count(to.signal, -int(sizeof value));
}

struct Waiting {
    Signal r_here, y_here, samples_here, products_here;
    int ticket;
};

struct alignas(8) Part {
    float value;
    int step;
};

static void post(Slot* slot, Sample value, int step) { *slot = {value.re, step, value.im, step}; }
static void post(Part* part, float value, int step) { *part = {value, step}; }

// Others go on before it is asked for again.
static bool arrived_of(bool here) {
    if (!here) give_way();
    return here;
}

static bool arrived(const Slot* slot, int step, Sample& value) {
    value = {slot->re, slot->im};
    return arrived_of(slot->re_step == step && slot->im_step == step);
}

static bool arrived(const Part* part, int step, float& value) {
    value = part->value;
    return arrived_of(part->step == step);
}

static void barrier_of(int threads) {
    current->block->some.members = threads;
    wait(current->block->some);
}
