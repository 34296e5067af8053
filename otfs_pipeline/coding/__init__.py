"""The LDPC code of 5G NR (3GPP TS 38.212): transport blocks, encoder, rate matching, CRCs."""
