"""Decoding: grow a draft tree from the streams, verify it in the next pass, keep the accepted path (paper §3.2.2)."""
