"""Studies and benchmarks: each module is a command that writes raw figures under results/, and the plot made from them."""
