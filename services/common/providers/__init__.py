"""Model providers behind one chat interface and one for embeddings: a file each, made of its SDK and its habits."""
