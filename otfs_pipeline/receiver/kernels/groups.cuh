// The delays that any antenna has a tap of, a bit each in `active`, in groups of up to GROUP neighbours.

constexpr int WORDS = (WINDOW + 31) / 32 + 1;

// By one thread.
__device__ void list_groups(const unsigned (&active)[WORDS], int* groups) {
    int found = 0, delays = 0;
    for (int a = 0; a < WINDOW && delays < MAX_DELAYS;) {
        // GROUP delays from a on lie within two words.
        unsigned long long both = (unsigned long long)active[a / 32 + 1] << 32 | active[a / 32];
        unsigned rest = unsigned(both >> a % 32);
        if (rest & 1) {
            int length = min(min(__ffs(~rest | 1u << 31) - 1, GROUP), MAX_DELAYS - delays);
            groups[1 + 2 * found] = a + FIRST_TAP;
            groups[2 + 2 * found++] = delays;
            delays += length;
            a += length;
        } else {
            a += rest ? __ffs(rest) - 1 : 32;
        }
    }
    groups[2 + 2 * found] = delays;
    groups[0] = found;
}
