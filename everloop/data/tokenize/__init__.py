"""From text to numbers and back: vocabularies, words, subwords. A tokenizer knows no dataset."""
