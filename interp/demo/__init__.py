"""The demo model: a small Llama trained by this project on public-domain novels, and everything that made and measures it."""
