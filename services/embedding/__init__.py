"""Text to vectors: encodes each paper once, keeps its vector in a store, and finds the papers nearest to a text.

It needs the extra `paperroute[embedding]` and, by default, nothing else: the local encoder's weights come with its
package, and the store is a folder of this process. The extra `paperroute[fastembed]` adds encoders that are downloaded;
encoders of providers need a key, are paid for, and keep a ledger of what they were paid.
"""
