//! The architectures of the Discoverable Partitions Specification and the type UUIDs of their
//! root and usr partitions. Data only; the names are looked up in [`crate::types`].

/// One architecture: canonical name, aliases, and its six partition types.
pub(crate) struct ArchTypes {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    /// data, verity, verity-sig
    pub(crate) root: [u128; 3],
    /// data, verity, verity-sig
    pub(crate) usr: [u128; 3],
}

pub(crate) const ARCHITECTURES: &[ArchTypes] = &[
    ArchTypes {
        name: "alpha",
        aliases: &[],
        root: [
            0x6523f8ae_3eb14e2a_a05a18b6_95ae656f,
            0xfc56d9e9_e6e54c06_be32e744_07ce09a5,
            0xd46495b7_a053414f_80f7700c_99921ef8,
        ],
        usr: [
            0xe18cf08c_33ec4c0d_8246c6c6_fb3da024,
            0x8cce0d25_c0d04a44_bd874633_1bf1df67,
            0x5c6e1c76_076a457a_a0fef3b4_cd21ce6e,
        ],
    },
    ArchTypes {
        name: "arc",
        aliases: &[],
        root: [
            0xd27f46ed_29194cb8_bd259531_f3c16534,
            0x24b2d975_0f974521_afa1cd53_1e421b8d,
            0x143a70ba_cbd34f06_919f6c05_683a78bc,
        ],
        usr: [
            0x7978a683_63164922_bbee38bf_f5a2fecc,
            0xfca0598c_d8804591_8c164eda_05c7347c,
            0x94f9a9a1_9971427a_a40050cb_297f0f35,
        ],
    },
    ArchTypes {
        name: "arm",
        aliases: &["armv7l"],
        root: [
            0x69dad710_2ce44e3c_b16c21a1_d49abed3,
            0x7386cdf2_203c47a9_a498f2ec_ce45a2d6,
            0x42b0455f_eb11491d_98d35614_5ba9d037,
        ],
        usr: [
            0x7d0359a3_02b34f0a_865c6544_03e70625,
            0xc215d751_7bcd4649_be906627_490a4c05,
            0xd7ff812f_37d14902_a810d76b_a57b975a,
        ],
    },
    ArchTypes {
        name: "arm64",
        aliases: &["aarch64"],
        root: [
            0xb921b045_1df041c3_af444c6f_280d3fae,
            0xdf3300ce_d69f4c92_978c9bfb_0f38d820,
            0x6db69de6_29f44758_a7a59621_90f00ce3,
        ],
        usr: [
            0xb0e01050_ee5f4390_949a9101_b17104e9,
            0x6e11a4e7_fbca4ded_b9e9e1a5_12bb664e,
            0xc23ce4ff_44bd4b00_b2d4b41b_3419e02a,
        ],
    },
    ArchTypes {
        name: "ia64",
        aliases: &[],
        root: [
            0x993d8d3d_f80e4225_855a9daf_8ed7ea97,
            0x86ed10d5_b60745bb_8957d350_f23d0571,
            0xe98b36ee_32ba4882_9b120ce1_4655f46a,
        ],
        usr: [
            0x4301d2a6_4e3b4b2a_bb949e0b_2c4225ea,
            0x6a491e03_3be74545_8e388332_0e0ea880,
            0x8de58bc2_2a43460d_b14ea76e_4a17b47f,
        ],
    },
    ArchTypes {
        name: "loongarch64",
        aliases: &["loong64"],
        root: [
            0x77055800_792c4f94_b39a98c9_1b762bb6,
            0xf3393b22_e9af4613_a9489d3b_fbd0c535,
            0x5afb67eb_ecc84f85_ae8eac1e_7c50e7d0,
        ],
        usr: [
            0xe611c702_575c4cbe_9a46434f_a0bf7e3f,
            0xf46b2c26_59ae48f0_9106c50e_d47f673d,
            0xb024f315_d330444c_846144bb_de524e99,
        ],
    },
    ArchTypes {
        name: "mips",
        aliases: &[],
        root: [
            0xe9434544_6e2c47cc_bae212d6_deafb44c,
            0x7a430799_f7114c7e_8e5b1d68_5bd48607,
            0xbba210a2_9c5d45ee_9e87ff2c_cbd002d0,
        ],
        usr: [
            0x773b2abc_2a994398_8bf503ba_ac40d02b,
            0x6e5a1bc8_d22349b7_bca837a5_fcceb996,
            0x97ae158d_f216497b_8057f7f9_05770f54,
        ],
    },
    ArchTypes {
        name: "mips64",
        aliases: &[],
        root: [
            0xd113af76_80ef41b4_bdb60cff_4d3d4a25,
            0x579536f8_6a334055_a95adf2d_5e2c42a8,
            0x43ce94d4_0f3d4999_8250b9de_afd98e6e,
        ],
        usr: [
            0x57e13958_73314365_8e6e35ee_ee17c61b,
            0x81cf9d90_74584df4_8dcfc8a3_a404f09b,
            0x05816ce2_dd404ac6_a61d37d3_2dc1ba7d,
        ],
    },
    ArchTypes {
        name: "mips-le",
        aliases: &["mipsel"],
        root: [
            0x37c58c8a_d9134156_a25f48b1_b64e07f0,
            0xd7d150d2_2a044a33_8f121665_1205ff7b,
            0xc919cc1f_44564eff_918cf75e_94525ca5,
        ],
        usr: [
            0x0f4868e9_99524706_979f3ed3_a473e947,
            0x46b98d8d_b55c4e8f_aab337fc_a7f80752,
            0x3e23ca0b_a4bc4b4e_80875ab6_a26aa8a9,
        ],
    },
    ArchTypes {
        name: "mips64-le",
        aliases: &["mips64el"],
        root: [
            0x700bda43_7a344507_b179eeb9_3d7a7ca3,
            0x16b417f8_3e064f57_8dd29b52_32f41aa6,
            0x904e58ef_5c654a31_9c576af5_fc7c5de7,
        ],
        usr: [
            0xc97c1f32_ba0640b4_9f222360_61b08aa8,
            0x3c3d61fe_b5f3414d_bb718739_a694a4ef,
            0xf2c2c7ee_adcc4351_b5c6ee98_16b66e16,
        ],
    },
    ArchTypes {
        name: "parisc",
        aliases: &["hppa"],
        root: [
            0x1aacdb3b_54444138_bd9ee5c2_239b2346,
            0xd212a430_fbc549f9_a983a7fe_ef2b8d0e,
            0x15de6170_65d3431c_916eb0dc_d8393f25,
        ],
        usr: [
            0xdc4a4480_69174262_a4ecdb93_84949f25,
            0x5843d618_ec3748d7_9f12cea8_e08768b2,
            0x450dd7d1_322445ec_9cf2a43a_346d71ee,
        ],
    },
    ArchTypes {
        name: "ppc",
        aliases: &[],
        root: [
            0x1de3f1ef_fa9847b5_8dcd4a86_0a654d78,
            0x98cfe649_158846dc_b2f0add1_47424925,
            0x1b31b5aa_add9463a_b2edbd46_7fc857e7,
        ],
        usr: [
            0x7d14fec5_cc71415d_9d6c06bf_0b3c3eaf,
            0xdf765d00_270e49e5_bc75f47b_b2118b09,
            0x7007891d_d3714a80_86a45cb8_75b9302e,
        ],
    },
    ArchTypes {
        name: "ppc64",
        aliases: &[],
        root: [
            0x912ade1d_a8394913_8964a10e_ee08fbd2,
            0x9225a9a3_3c194d89_b4f6eeff_88f17631,
            0xf5e2c20c_45b24ffa_bce92a60_737e1aaf,
        ],
        usr: [
            0x2c9739e2_f06846b3_9fd001c5_a9afbcca,
            0xbdb528a5_a259475f_a87dda53_fa736a07,
            0x0b888863_d7f84d9e_9766239f_ce4d58af,
        ],
    },
    ArchTypes {
        name: "ppc64-le",
        aliases: &["ppc64le", "ppc64el"],
        root: [
            0xc31c45e6_3f39412e_80fb4809_c4980599,
            0x906bd944_45894aae_a4e4dd98_3917446a,
            0xd4a236e7_e8734c07_bf1dbf6c_f7f1c3c6,
        ],
        usr: [
            0x15bb03af_77e74d4a_b12bc0d0_84f7491c,
            0xee2b9983_21e84153_86d9b690_1a54d1ce,
            0xc8bfbd1e_268e4521_8bbabf31_4c399557,
        ],
    },
    ArchTypes {
        name: "riscv32",
        aliases: &[],
        root: [
            0x60d5a7fe_8e7d435c_b7143dd8_162144e1,
            0xae0253be_11674007_ac684392_6c14c5de,
            0x3a112a75_87294380_b4cf764d_79934448,
        ],
        usr: [
            0xb933fb22_5c3f4f91_af90e2bb_0fa50702,
            0xcb1ee4e3_8cd04136_a0a4aa61_a32e8730,
            0xc3836a13_313745ba_b583b16c_50fe5eb4,
        ],
    },
    ArchTypes {
        name: "riscv64",
        aliases: &[],
        root: [
            0x72ec70a6_cf7440e6_bd494bda_08e8f224,
            0xb6ed5582_440b4209_b8da5ff7_c419ea3d,
            0xefe0f087_ea8d4469_821a4c2a_96a8386a,
        ],
        usr: [
            0xbeaec34b_8442439b_a40b9843_81ed097d,
            0x8f1056be_9b0547c4_81d6be53_128e5b54,
            0xd2f9000a_7a18453f_b5cd4d32_f77a7b32,
        ],
    },
    ArchTypes {
        name: "s390",
        aliases: &[],
        root: [
            0x08a7acea_624c4a20_91e86e0f_a67d23f9,
            0x7ac63b47_b25c463b_8df8b4a9_4e6c90e1,
            0x3482388e_4254435a_a241766a_065f9960,
        ],
        usr: [
            0xcd0f869b_d0fb4ca0_b1419ea8_7cc78d66,
            0xb663c618_e7bc4d6d_90aa11b7_56bb1797,
            0x17440e4f_a8d0467f_a46e3912_ae6ef2c5,
        ],
    },
    ArchTypes {
        name: "s390x",
        aliases: &[],
        root: [
            0x5eead9a9_fe094a1e_a1d7520d_00531306,
            0xb325bfbe_c7be4ab8_8357139e_652d2f6b,
            0xc80187a5_73a3491a_901a017c_3fa953e9,
        ],
        usr: [
            0x8a4f5770_50aa4ed3_874a99b7_10db6fea,
            0x31741cc4_1a2a4111_a581e00b_447d2d06,
            0x3f324816_667b46ae_86ee9b0c_0c6c11b4,
        ],
    },
    ArchTypes {
        name: "tilegx",
        aliases: &[],
        root: [
            0xc50cdd70_38624cc3_90e1809a_8c93ee2c,
            0x966061ec_28e44b2e_b4a51f0a_825a1d84,
            0xb3671439_97b04a53_90f72d5a_8f3ad47b,
        ],
        usr: [
            0x55497029_c7c144cc_aa39815e_d1558630,
            0x2fb4bf56_07fa42da_81326b13_9f2026ae,
            0x4ede75e2_6ccc4cc8_b9c77033_4b087510,
        ],
    },
    ArchTypes {
        name: "x86",
        aliases: &["i386", "i486", "i586", "i686"],
        root: [
            0x44479540_f29741b2_9af7d131_d5f0458a,
            0xd13c5d3b_b5d1422a_b29f9454_fdc89d76,
            0x5996fc05_109c48de_808b23fa_0830b676,
        ],
        usr: [
            0x75250d76_8cc6458e_bd66bd47_cc81a812,
            0x8f461b0d_14ee4e81_9aa9049b_6fb97abd,
            0x974a71c0_de4143c3_be5d5c5c_cd1ad2c0,
        ],
    },
    ArchTypes {
        name: "x86-64",
        aliases: &["x86_64", "amd64"],
        root: [
            0x4f68bce3_e8cd4db1_96e7fbca_f984b709,
            0x2c7357ed_ebd246d9_aec123d4_37ec2bf5,
            0x41092b05_9fc84523_994f2def_0408b176,
        ],
        usr: [
            0x8484680c_952148c6_9c11b072_0656f69e,
            0x77ff5f63_e7b64633_acf41565_b864c0e6,
            0xe7bb33fb_06cf4e81_8273e543_b413e2e2,
        ],
    },
];
