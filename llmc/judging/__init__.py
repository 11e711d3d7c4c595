"""How a quantized network is judged: its videos, and the float trajectory replayed through it."""
