"""Link-level study: bit error rates over SNR."""
