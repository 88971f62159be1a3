"""The only folder that imports Lightning: SFT and alignment."""
