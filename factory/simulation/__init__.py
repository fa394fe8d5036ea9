"""Virtual time over the real control.tick, with a fake Ray and every fault."""
