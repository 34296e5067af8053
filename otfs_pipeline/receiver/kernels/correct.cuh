// Samples of a waveform without DC and image: y - κy*, see front/balance.py.
struct Correction {
    Sample dc, image;

    __device__ explicit Correction(const float* given) : dc{given[0], given[1]}, image{given[2], given[3]} {}

    // Sample `at`; what lies outside the window is silent.
    __device__ __forceinline__ Sample of(const Sample* waveform, int at) const {
        if (at < 0 || at >= WINDOW) return {0, 0};
        const Sample y = waveform[at] - dc;
        return {y.re - image.re * y.re - image.im * y.im, y.im - image.im * y.re + image.re * y.im};
    }
};
