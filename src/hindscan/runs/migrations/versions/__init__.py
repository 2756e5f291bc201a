"""One module for each revision, named by it. A revision that was released is never changed."""
