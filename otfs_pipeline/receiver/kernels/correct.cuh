// An antenna's samples of a waveform without DC and image: y - κy*, see front/balance.py.
struct Correction {
    Sample dc, image;
    int antenna;

    __device__ explicit Correction(const float* given, int antenna)
        : dc{given[6 * antenna], given[6 * antenna + 1]},
          image{given[6 * antenna + 2], given[6 * antenna + 3]},
          antenna(antenna) {}

    // Sample `at`; what lies outside the window is silent.
    __device__ __forceinline__ Sample of(const Sample* waveform, int at) const {
        if (at < 0 || at >= WINDOW) return {0, 0};
        const Sample y = waveform[at * ANTENNAS + antenna] - dc;
        return {y.re - image.re * y.re - image.im * y.im, y.im - image.im * y.re + image.re * y.im};
    }
};

// The power of a symbol, of all antennas together.
__device__ __forceinline__ float symbol_power(const float* correction) {
    float sum = correction[4];
    for (int antenna = 1; antenna < ANTENNAS; antenna++) sum += correction[6 * antenna + 4];
    return sum;
}
