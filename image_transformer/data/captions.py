"""Captions: what images show, in words, several wordings of each; those that follow from classes and attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from image_transformer.data.images import DataError, ImageData, class_names

Wordings = tuple[str, ...]  # captions of one image; the first is the one that it is scored with

OTHER_NAMES = {
    "airplane": ("plane", "aeroplane"), "automobile": ("car",), "ship": ("boat",), "truck": ("lorry",),
    "cat": ("kitten",), "dog": ("puppy",), "frog": ("toad",), "horse": ("pony",),
}  # fmt: skip
"""Synonyms of the classes of CIFAR-10."""
SENTENCES = ("a photo of {}", "a picture of {}", "{}", "an image of {}", "a small photo of {}")

# of CelebA's 40 attributes: what a person may be said to have
PERSON = {True: ("man", "man", "guy"), False: ("woman", "woman", "lady")}
FEATURES = {
    "Black_Hair": "black hair", "Blond_Hair": "blond hair", "Brown_Hair": "brown hair", "Gray_Hair": "grey hair",
    "Wavy_Hair": "wavy hair", "Straight_Hair": "straight hair", "Bangs": "a fringe",
    "Receding_Hairline": "a receding hairline", "Sideburns": "sideburns", "Mustache": "a moustache",
    "Goatee": "a goatee", "5_o_Clock_Shadow": "stubble", "Bushy_Eyebrows": "bushy eyebrows",
    "Arched_Eyebrows": "arched eyebrows", "Rosy_Cheeks": "rosy cheeks", "High_Cheekbones": "high cheekbones",
    "Oval_Face": "an oval face", "Big_Lips": "full lips", "Big_Nose": "a big nose", "Pointy_Nose": "a pointed nose",
    "Narrow_Eyes": "narrow eyes", "Bags_Under_Eyes": "bags under the eyes", "Double_Chin": "a double chin",
    "Mouth_Slightly_Open": "an open mouth", "Eyeglasses": "glasses", "Heavy_Makeup": "make-up",
    "Pale_Skin": "pale skin", "Wearing_Earrings": "earrings", "Wearing_Hat": "a hat", "Wearing_Lipstick": "lipstick",
    "Wearing_Necklace": "a necklace", "Wearing_Necktie": "a tie",
}  # fmt: skip
STRIKING = ("Eyeglasses", "Wearing_Hat", "Mustache", "Goatee", "Blond_Hair", "Black_Hair", "Gray_Hair", "Brown_Hair")


def captions_of(data: ImageData) -> Sequence[Wordings]:
    """The wordings of each image: its captions, or what its class is called. DataError if it has neither."""
    if data.captions is not None:
        return data.captions
    if data.labels is None:
        raise DataError(
            f"{data.name}: the images have no captions, which a text-conditional model needs: expected metadata.jsonl "
            "with file_name and text, a Parquet column text or caption, or classes"
        )
    by_class = [class_captions(name) for name in class_names(data)]
    return [by_class[label] for label in data.labels.tolist()]


def class_captions(name: str) -> Wordings:
    """What can be said of images of a class, such as "a photo of a frog"."""
    names = [name.replace("_", " "), *OTHER_NAMES.get(name, ())]
    return tuple(sentence.format(with_article(one)) for one in names for sentence in SENTENCES)


def with_article(words: str) -> str:
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def face_captions(has: Mapping[str, bool]) -> Wordings:
    """What CelebA's attributes say of a face, briefly and at length: "a smiling young woman with blond hair"."""
    features = [words for name, words in FEATURES.items() if has.get(name)]
    features += ["a beard"] if has.get("No_Beard") is False else []
    striking = [FEATURES[name] for name in STRIKING if has.get(name)]
    adjectives = [word for word, there in (("smiling", has.get("Smiling")), ("bald", has.get("Bald"))) if there]
    more = [word for word in ("chubby", "attractive") if has.get(word.capitalize())]
    age = "young" if has.get("Young") else "older"
    first, second, third = PERSON[bool(has.get("Male"))]
    person = " ".join([*adjectives, age])
    return (
        _with(f"{person} {first}", striking[:2]),
        _with(f"{person} {third}", features[:1]),
        f"a face of {_with(f'{age} {second}', features[1:3])}" + (", smiling" if has.get("Smiling") else ""),
        _with(" ".join([*more, *adjectives, first]), features[:4]),
    )


def _with(person: str, features: Sequence[str]) -> str:
    """ "a young woman with blond hair, earrings and glasses"."""
    listed = " and ".join(part for part in (", ".join(features[:-1]), *features[-1:]) if part)
    return with_article(person) + (f" with {listed}" if listed else "")
