"""Lies beside a method, as the folders of Mammoth's larger methods do."""


def map_penalty(maps):
    return sum(each.pow(2).mean() for each in maps)
