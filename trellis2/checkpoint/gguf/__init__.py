"""GGUF: flow networks in blocks of few bits a weight."""
