"""Papers to text: plans the search, summarizes papers, writes sections and the frame around them.

Two roles share this folder: `generation` (GenerationService) and `summarization` (SummarizationService), which is
deployed apart so that its workers scale by themselves. Neither needs an extra, a key or a network: the engine that is
always there, `extractive:builtin`, picks the papers' own sentences.
"""
