"""`roster demo`: the main job on real processes, with a death, a birth and a departure in the middle."""
