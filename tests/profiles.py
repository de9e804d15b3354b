"""Generated pictures: formats x modes x depths x profiles x orientations, each with its look."""

import io
import struct
import zlib
from itertools import product

import numpy as np
from PIL import Image, features

WHITE, RED, GREEN, BLUE = range(4)
# Chromaticities of white, red, green, blue, as PNG's cHRM has them
SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
ADOBE = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
D50 = np.array([0.9642, 1.0, 0.8249])


def profile(primaries=P3, gamma=2.2, grey=False):
    """An ICC profile of version 2: matrix and gamma, or a grey one."""

    def xyz(x, y):
        return np.array([x / y, 1, (1 - x - y) / y])

    white, *columns = (xyz(*primaries[i : i + 2]) for i in range(0, 8, 2))
    matrix = np.array(columns).T
    matrix = matrix * np.linalg.solve(matrix, white)
    adapted = (
        np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD @ matrix
    )

    def fixed(values):
        return b"XYZ \0\0\0\0" + b"".join(
            struct.pack(">i", round(float(v) * 65536)) for v in values
        )

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"a test"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": fixed(D50),
    }
    if grey:
        tags[b"kTRC"] = curve
    else:
        tags |= {name: fixed(adapted[:, k]) for k, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", offset + len(data), len(content))
        data += content
    size = offset + len(data)
    head = struct.pack(
        ">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ "
    )
    head += (
        struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
        + b"acsp"
        + bytes(28)
        + struct.pack(">3i", *(round(v * 65536) for v in D50))
    )
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data


def chunk(kind, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(png, *chunks, at=None):
    """A PNG with more chunks, by default before its palette and pixels."""
    at = at or min(png.index(name) for name in (b"PLTE", b"IDAT") if name in png) - 4
    return png[:at] + b"".join(chunk(*part) for part in chunks) + png[at:]


def png_of(size, bits, colour_type, pixels, *chunks):
    """A PNG of these already packed pixels."""
    header = struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def gama(gamma):
    return b"gAMA", struct.pack(">I", round(100_000 / gamma))


def chrm(primaries):
    return b"cHRM", struct.pack(">8I", *(round(100_000 * v) for v in primaries))


def scene(mode="RGB", size=(24, 16)):
    """Smooth colours with every hue and grey, so that lossy formats keep them."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    colours = np.stack([x, y, 0.5 + 0.5 * np.sin(3 * x + 4 * y)], -1)
    picture = Image.fromarray((colours * 255).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        alpha = Image.fromarray((255 * np.clip(2 * y, 0, 1)).astype(np.uint8))
        picture = picture.convert(mode[:-1])
        picture.putalpha(alpha)
        return picture
    return picture.convert(mode)


def saved(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def corpus():
    """(name, bytes, other bytes of the same look for a browser that cannot open these, or None)."""
    profiles = {
        "none": b"",
        "sRGB": profile(SRGB, 2.2),
        "P3": profile(P3, 2.2),
        "Adobe": profile(ADOBE, 2.19),
        "gamma 1.8": profile(SRGB, 1.8),
    }
    grey = {"none": b"", "grey 1.8": profile(gamma=1.8, grey=True)}
    exif = {n: Image.Exif() for n in range(1, 9)}
    for n, data in exif.items():
        data[0x0112] = n
    forms = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"), "JPEG": ("L", "RGB"), "WEBP": ("RGB", "RGBA"),
        "BMP": ("1", "L", "P", "RGB"), "GIF": ("1", "L", "P", "RGB"),
        "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA"), "PPM": ("1", "L", "RGB"),
    }  # fmt: skip
    forms |= {"AVIF": ("RGB", "RGBA")} if features.check("avif") else {}
    lossy = {
        "JPEG": dict(quality=98, subsampling=0),
        "WEBP": dict(lossless=True, exact=True),
        "AVIF": dict(quality=98, subsampling="4:4:4"),
    }
    for form, modes in forms.items():
        for mode in modes:
            kinds = grey if mode in ("L", "LA", "1") else profiles
            for kind, icc in (
                kinds.items()
                if form in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF")
                else [("none", b"")]
            ):
                turned = (
                    exif
                    if form in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")
                    and kind in ("none", "P3", "grey 1.8")
                    and mode != "1"
                    else {1: None}
                )
                for n, data in turned.items():
                    how = {
                        **lossy.get(form, {}),
                        **({"icc_profile": icc} if icc else {}),
                        **({"exif": data} if data else {}),
                    }
                    # Chromium opens no TIFF and PPM, turns no WebP and rounds the alpha of AVIF
                    other = (
                        form in ("TIFF", "PPM")
                        or (form == "WEBP" and n > 1)
                        or (form, mode) == ("AVIF", "RGBA")
                    )
                    same = dict(how) if other else None
                    for option in ("quality", "subsampling", "lossless", "exact"):
                        if same is not None:
                            same.pop(option, None)
                    picture = scene(mode)
                    yield (
                        f"{form} {mode} {kind} {n}",
                        saved(picture, form, **how),
                        None if same is None else saved(picture, "PNG", **same),
                    )
    for gamma, primaries, mode in product(
        (None, 1.0, 1.8, 2.2), (None, SRGB, P3, ADOBE), ("L", "RGB", "RGBA", "P")
    ):
        chunks = ([gama(gamma)] if gamma else []) + ([chrm(primaries)] if primaries else [])
        name = {None: "no", SRGB: "sRGB", P3: "P3", ADOBE: "Adobe"}[primaries]
        yield (
            f"PNG {mode} gAMA {gamma} cHRM {name}",
            with_chunks(saved(scene(mode), "PNG"), *chunks),
            None,
        )
    for code, mode in product(
        ((1, 13), (12, 13), (9, 13), (1, 8), (1, 4), (1, 5)), ("L", "RGB", "RGBA")
    ):
        yield (
            f"PNG {mode} cICP {code}",
            with_chunks(saved(scene(mode), "PNG"), (b"cICP", bytes((*code, 0, 1)))),
            None,
        )
    yield (
        "PNG cICP beside iCCP",
        with_chunks(
            saved(scene(), "PNG", icc_profile=profile(ADOBE)), (b"cICP", bytes((12, 13, 0, 1)))
        ),
        None,
    )
    yield (
        "PNG sRGB beside gAMA",
        with_chunks(saved(scene(), "PNG"), gama(1.0), chrm(P3), (b"sRGB", b"\0")),
        None,
    )
    yield (
        "PNG iCCP beside gAMA",
        with_chunks(saved(scene(), "PNG", icc_profile=profile(ADOBE, 2.2)), gama(1.0)),
        None,
    )
    yield "PNG broken iCCP", saved(scene(), "PNG", icc_profile=profile()[:90]), None
    yield (
        "JPEG broken profile",
        saved(scene(), "JPEG", quality=98, subsampling=0, icc_profile=bytes(500)),
        None,
    )
    yield (
        "JPEG RGB grey profile",
        saved(scene(), "JPEG", quality=98, subsampling=0, icc_profile=profile(grey=True)),
        None,
    )
    yield (
        "JPEG L RGB profile",
        saved(scene("L"), "JPEG", quality=98, icc_profile=profile(P3, 1.8)),
        None,
    )
    yield "JPEG CMYK", saved(scene("CMYK"), "JPEG", quality=98), None
    ramp = np.linspace(0, 1, 24 * 16).reshape(16, 24)
    plain = saved(Image.fromarray((ramp * 255 + 0.5).astype(np.uint8)), "PNG")
    yield "PNG 16 bits", saved(Image.fromarray((ramp * 65535).astype(np.uint16)), "PNG"), None
    yield "TIFF 16 bits", saved(Image.fromarray((ramp * 65535).astype(np.uint16)), "TIFF"), plain
    yield (
        "TIFF dark 16 bits",
        saved(Image.fromarray((ramp * 200).astype(np.uint16)), "TIFF"),
        saved(Image.new("L", (24, 16), 0), "PNG"),
    )
    yield "TIFF float", saved(Image.fromarray(ramp.astype(np.float32)), "TIFF"), plain
    yield "TIFF float 255", saved(Image.fromarray((ramp * 255).astype(np.float32)), "TIFF"), plain
    yield "PPM 16 bits", b"P5 24 16 65535\n" + (ramp * 65535).astype(">u2").tobytes(), plain
    yield "PPM 10 bits", b"P5 24 16 1023\n" + (ramp * 1023).astype(">u2").tobytes(), plain
