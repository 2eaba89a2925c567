"""Random speakers for pretraining.

The synthesiser has about sixty voices, and an encoder trained on those alone overfits
them. People differ in the length and shape of their vocal tract (frequency, strength
and width of formants), in their voice (tilt, breath, roughness) and in how they stress
words; a random speaker draws each of these.
"""

import numpy as np

_FORMANTS = 9


def draw_speaker(name: str, generator: np.random.Generator) -> str:
    """Draw a voice definition in espeak-ng's format (its docs/voices.md).

    Formants are percent of the accent's: frequency, strength, width.
    """

    def draw(low: float, high: float) -> int:
        return round(generator.uniform(low, high))

    def several(count: int, low: float, high: float) -> str:
        return " ".join(str(draw(low, high)) for _ in range(count))

    tract = generator.uniform(0.9, 1.15)
    lines = [
        "language variant",
        f"name {name}",
        f"pitch {(low := draw(70, 200))} {round(low * generator.uniform(1.2, 1.7))}",
        f"flutter {draw(0, 6)}",
        f"roughness {draw(0, 3)}",
        f"voicing {draw(50, 150)}",
        f"consonants {draw(60, 140)} {draw(50, 140)}",
        f"intonation {draw(1, 4)}",
        f"stressAdd {several(8, -25, 25)}",
        f"stressAmp {several(8, 14, 24)}",
    ]
    for number in range(_FORMANTS):
        # 0 is the murmur below the first formant; 6 and above add faint brightness.
        frequency = 100 if number == 0 else 100 * tract * generator.uniform(0.93, 1.07)
        strength = draw(0, 130) if number > 5 else draw(60, 150)
        lines.append(f"formant {number} {round(frequency)} {strength} {draw(70, 180)}")
    if generator.random() < 0.5:
        # Loudness at five frequencies, falling as in a natural voice.
        levels = np.sort(generator.uniform(30, 255, 5))[::-1].round().astype(int)
        pairs = zip((600, 1200, 2000, 3000, 4500), levels, strict=True)
        lines.append("tone " + " ".join(f"{hertz} {level}" for hertz, level in pairs))
    if generator.random() < 0.4:
        lines += [f"breath {several(8, 0, 8)}", f"breathw {several(8, 100, 400)}"]
    return "\n".join(lines) + "\n"
