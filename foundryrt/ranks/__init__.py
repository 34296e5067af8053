"""One bundle on several GPUs: rank 0 drives the session, the other ranks repeat what it does."""
