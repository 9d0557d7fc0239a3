"""Everyday nouns: texts to compare two models on where no others are given."""

from __future__ import annotations

TEXT = """
apple armchair baby bakery ball bank basket beach bear bee belt bicycle blanket boat book bottle box bread bridge
brush building butter button cable calendar camera cap card carrot cat chain cheese child circle clay clock coat coin
computer corn crab cross cup dancer desert diamond dog door drawing drum ear elephant envelope face farm fence fire
flag flower fog forest fox fruit gate glove grape guitar hammer harbour hay hen honey hospital ice jacket jewel key
kite ladder lamp lemon library lion lock map mask medal mirror moon mountain mouth nail needle net night nut office
orange owl palace paper parrot pear pencil person piano pig pipe plate pool potato puppet rabbit ribbon ring road rock
room rose sail sand saw school screen seed shell shirt shop sink sky snow sock soup spoon stadium star statue storm
street sun swan table tea telescope tent tiger tomato town tractor tree truck tunnel umbrella valley vegetable violin
watch waterfall wheel wind wine wolf wool
"""
NOUNS = tuple(TEXT.split())
