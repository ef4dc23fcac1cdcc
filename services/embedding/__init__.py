"""Text to vectors: encodes each paper once and keeps its vector in a store.

It needs the extra `paperroute[embedding]` and, by default, nothing else: the local encoder's weights come with its
package, and the store is a folder of this process.
"""
