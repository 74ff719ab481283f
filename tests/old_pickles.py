"""Caches that TinyTroupe's way of pickling wrote with OpenAI's SDK in several versions.

Each was made with the version that its name tells: `client.chat.completions.create`
was asked the two questions of `QUESTIONS` of a fake endpoint that gave `ANSWERS`,
what it returned was put into a dictionary under `str((model, parameters))`, and
that was pickled. They are compressed with zlib and written in base 85.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

MODEL = "gpt-4o-mini"
QUESTIONS = ("Who are you?", "What do you buy?")
SYSTEM = "You are Lisa.\nYou like bread."


def make_parameters(question: str, **others: Any) -> dict[str, Any]:
    """Returns the parameters that TinyTroupe's `send_message` names an answer by."""
    return {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question},
        ],
        "temperature": 1.5,
        "max_tokens": 4000,
        "top_p": 0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stop": [],
        "timeout": 60.0,
        "stream": False,
        "n": 1,
        **others,
    }


def make_key(parameters: dict[str, Any]) -> str:
    """Names an answer as TinyTroupe does."""
    return str((parameters["model"], parameters))


ANSWERS: tuple[dict[str, Any], ...] = (
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1718000000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": 'Grüße aus Recife, "Oscar".',
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 5,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        "system_fingerprint": "fp_1",
        "novelty": {"deep": [1, 2.5, None]},
    },
    {
        "id": "chatcmpl-2",
        "object": "chat.completion",
        "created": 1718000001,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "buy", "arguments": '{"item":"bread"}'},
                        }
                    ],
                },
                "logprobs": {
                    "content": [
                        {
                            "token": "b",
                            "logprob": -0.25,
                            "bytes": [98],
                            "top_logprobs": [{"token": "b", "logprob": -0.25, "bytes": [98]}],
                        }
                    ]
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30},
    },
)

PICKLED: dict[str, str] = {
    "openai 1.3.0, pydantic 2.3.0, protocol 4": (
        "c-qxf-)|d55Oz{KwwtCcQNj-?L>EiQi5j1rkOFapsECwEH5ds|(F&sL`fltwdUt!=?v<D*Qv1FVl~^8lLi`^{JoF#n"
        "Ph$4YcFs)@JQhc?vNQAT%+AdB`C0jw-)p7pbFMcZemYkwZ8nFoZ0+$@=tq8Y+d6B8+=HOmv0iaBLlA-uL6Ga4vu45r"
        "FhOD@B!tHA@<>7?jqwprEtY`wnJ<|AZDfvt{{*al0?f0U=O)eMf>c2A3jAy28GOXkPnzc^<fIfaBuu7>!R**~O+D<?"
        "k^BinrlP%eyKUll?8J05{|^%QK845~IWa^mkRxNajVDe(kOM9`1mVr|vXp)ZJT>)vFmY1#A)Sv{Ab<>!Ddl`is|{{0"
        "@@+YaLD()bnSD7f590u&&m*mF9+Kto!tk@+dah{*s^&PJ?@GtXPV>H})pdh*DYUhtRn<lAyCC$5#(A}Hn4P9@tQyqP"
        "fMz7np#p_TRyGgOs^Ui;oa$~#Rma2AYU^KXb*8bavo(J{w$J9Sjt8gJ+HvyokC(rJ#ZqB?39dh&E;YUoE=w9V6=f!_"
        "Rh<dp3&{*(X^=*4meXZHpnK}N<UGg@LibX&>^Skrqfp;<;8Z3o>yoM_Fh~U>fKYE0LIyqro^S-1ZvI3CuHpI%wNi+P"
        "6aOibK<-}JPq9Il)dD_@6W*tU0^c*JRb0X47uci_M$e<BO7QgkXTJ^xs*<rot2YbeXzjLl_gd`_TRR_VwZQw|flF_@"
        "mG`!=0?Rp9sLW^x36)}6P#(k%O}UchEq`}*JQqV5`)^&0<G~ffc%y*GxuLriwM6d=V>z`fsvD9^7EBGdvsP@X)tNxY"
        "1Ic`v1a)c2WiEm@MO+i=olCijfZO>l(o?6Hd6DJ~?%>CG4-arZZ*o3|YQ&!ck<oz59zaYBzuBETzE{o#t4G_H!`oQL"
        "UA%+axQKRs#lxf5R?3*PJZ_}S>ZhasgPdWxuu)hqsL`&*MN*-gMgQ^)XK|%lBL2Kxj9Ba8dXe>L^>E`vtM~u25;@Zh"
        "M35^r=_?92H2xVnQ1J@}We8TANR7rvs&+Iv%+jaMl3^Os=mahBS;MC}H9C!K)MiD?5etcf*JzMBTiSdd2Z;F=s<L^D"
        "#>WL`fRC|07L$URlnFPA>wh6bh6@u-J;{C)D%oCWHP<KCI8Gn``BzR1Rq2mp_WRH!y}Ds`W_nkK#~<(%N7H!xF^f#;"
        "Ph6pRc<26eQaarJM~y@KvbbTpN1VJ{Z2o??j-Bo*9(30W5AWbU9uyv)TQ3nhwf_e4+#TT"
    ),
    "openai 1.30.0, pydantic 1.10.27, protocol 4": (
        "c-qxeUvC>l5KmG&juVoWsHs%c5Z54_w6*hx0BMi_VJVU7Vk8tqD~Oi$-8yshe0$vPg<6qOD<K}xN>pNb;E6AS#6!OT"
        "ABmas`EpKz+Q;Gt>*oLLZ)Sc^3cueePb9yAU48KB<ix~k?I_gsZCUSmfmgdzIjQxeEBxAS<&2@$6H4(Tq0sd8NiCAT"
        "AScyVTJ*^7$Uuuglk%aAD?AdF`<~*BZvqm1?~$l<BEj88Z9rv431TIpGvQx>Ov3vz{<t<cL?f06MZ|R+QOsuJJ?e))"
        "W?DWH0d=&!v9UpZGGrl&^xcib_pu0^J_|*_ecdO0gDhbr6dJ@igTi=vUQ*KQ2^mvA?~jbweGlb5?kj<cfLa->S#wiT"
        "BCnzQp->G6xK93<BYUAQv?l{=7MiGOo+^H`Yfmi>!OSq`dX8o+k)}M?npui=(6zp4P00c2IYQY(3sYvgnMheUlqhPx"
        "i!)Ndut7z|3iJ?bieBJ~$F?<LW_)=RMzW)9+mzBlTC?`TzFFqGG~WMbseZhVQaVIyZtO?T|9bwXsPI@-z7USrMZ~I~"
        "D~Ctb1~y33x2DXM@|5NjG2e{?C#mUh-^V^@wUmA$Bwa_M8!L{6*eo#C^@Q&#rUU`^E7o6zw_xR&xxrW%dB<D}#<h;T"
        "PK;m2+>eDy5RN-ByiNXB;TkN#;xl-MlpI?}@U(F4y(fQkyQY|2fi>51M^N9|*xIgdd{E!qv1VF!z7r1ieR+smZq$pz"
        "o4_7}BN1Uc^t?hhWH`-YJcM(39QsqhQ~TvpsK2}b=+|=*!yB-zqM64L_d=a%=FDqaYVK!>D`siTg}Fj=5Ahu!{tkCQ"
        "xS8)IWv-vAk`K5t+%|k<7Bi(%bnn70d;~l2VT!LQ1@c(nsZn6T6(YoSUTsb8e^MCIQCo~c%WxZ-FbB6_9X6q!CU~&-"
        "%5oLg6;~2hRXTD1|G-yJ$gL8Tb9A$1VGe0#A#YzCJ4CqJn!vl6B0eJ`x<BHT{C>jnp*8C-CYJ;amQs^7Z;VsS0a?@h"
        "XV$-%L|QY6QN>PQC+ygwD;_1=|NEceV$lhNETcbs-9s~bAj1n21A}jYC#k^6QlyLNpp}pKBGb8ftr}{VQyD4ddOrJd"
        "8&>k12RGYLMX26=X&z?TD3C%fWaI;MXp(*WVP!K-QA9yABciqNgPGYI3F8Qtd2|%_aK{xM`bpKpg|6;albfj02?xA~"
        "EOiMt-lkCe1V4|Cy+9Ai7fM}zgkPY12Ei&a_e!d}n400%y{AaYaQi>W80zO)7}ncJAKQ5hc3Ne)+ggI%)|+XiT_mcV"
        "@!~{3L_Vj~6F2?^{aIFA"
    ),
    "openai 1.40.0, pydantic 2.14.3, protocol 4": (
        "c-qxeUvC>l5KmG&j+3S>QBqWd>ER-rsIjrrP*582FH$1at&vcw7M19<z8iavo^Oxay(m^>DSbgatVAW22cGyMNIdil"
        "@R69kvz>DsR35<(C-2Ps=KuW8a=-SAGs$nD*PnegJ2SIh>4vhp&8s~x@G6_uX{E<q@GCpk1x2L?La;6fQawMdMBE2s"
        "B>F-^&*&W<NC>16e#>KvMPNPh1gm`)n5XZ(0IMAVb8D4>2{UpK3y3bjpCV7-eI9>a861(4LWB@88Ak@wsC{hmVJEia"
        "FCZ`(ZP)8{W5+`~q^J4ciQtDA0;g|>5HMf%jl5<wVFZE{Fr^TLH{~TEy&mw`<a2+dr0je2-e<l55(Fld!G>1vbK}UX"
        "$$ki;<{*>F$98xx^g((&(CXSAN%qbKzvzvZnueejY}@r5Y1_$b&U3X|G-!uRs|~FR4sy={p^r4qsrkL+HHKrspq4u{"
        "BY`$0C`_=NDMYKh7r1bun=@*`=iM;kZJ}GLFdU>-8*j|p9^0->=KpvopUk5$9HLh59z?JIc>OzAEEd)`;CLPCSov$="
        "u&7+4q9W+Tg87tA&MbmfMJ9wNBs1XUP8>K%c!&AMW>IqPCl4whRx7q0_FXdd92-t##FFNzw=?372fiz80j9A(Q+_49"
        "jn*r*nz0EZ@0dv-gI3&*@q>ZJ4~^*x-o!OreTC~JXH*omRf4M@p8eM8sC;rCTHVZ?M|G>dwOy@$Qf+*y)jV&14-S=a"
        "J?&^_39izvAJh13=|Mzwt)$mO*#=#RC?8XOt`pic_k5f-zBD<c^U)0T*UyLY<dTuRl|iJ}qMLcOOv}&<<yf+$u1YSM"
        "KNj3b`mwIoCJb#CB=cwp)a_-5ISB3;aYd+GQ?asu8|ijZsbkEXh|`wu-~;>&ck#=#=}B-^2>3D3c^Yue1qkT`)|;~j"
        "U*u8>Ytas-@J(!B5o@@F_wa7&;@SRxmfV=MTyDtCYRCQm1HoY~vr$;g@Y9yYCE}%PS^dhyx#DVbhOTMO5TIeMM<XJd"
        "SW_$=Y4y>Y=_qN3JtQ-&-kBt&L!%uAxNrvf1gX_5q4Mp%O!%~Eu6yL{;LpF(wKAs=+GE0`@}8^3Lmpo07#X(FNn9a}"
        "U1Z3FDnJ-g$we`Ch6=ph%IHd|lvwE2M2lKvhE|p-vE0Ht)VX{An#k?(Xoy)ZrSwBG*faXcI*V%FpbRrDjObZoUoGs9"
        "9+M3(vZx#PXy*l8{%P5x1uyTElN%|Udk$ES$m<GSfX<ZuBmR^YuX3gqjb|C9q8mS(Ze<DY5VN22#$_aqcOSka^2W`7"
        "q;0HC^EK96*k}=_+|PDmr&+`Y%{AO@zL$w-7;JYci_MF)6xaR+sxoki"
    ),
    "openai 1.65.0, pydantic 2.14.3, protocol 4": (
        "c-qxfTW=dh6i!mRiF0W~NLn=_bTLIvq}aKT64V=rKqAG(R45fi5RJyW<D8|tJIl^&8Y_y_J~I+k86@BV{s<Be{R8|Y"
        "&g`!3-6T*R!4E6XxnIBYwDhAhK9u}U^x~tBhKGh0YX_mMZ}7VB25xQHI<EQLVP5T)b&65*nGp1V31oeBT#LBJjF9LG"
        "$$Z1Nc_3LJ4e?7JTQp+UeOJ)N*MWI@?qg=PBSxJ@?Zmk08HfdoPN{zZJW=oR_=DQXJ~Gio$RaA^$mpy!Zkl-L5s~~c"
        "3rs{CtE;O<j)x?~r}^KB*tanY>@EpeKt0(t^oHSt5fjK@XBYzYO?rt-*JnI7@x0e#V)Q<~x2Y!>5&{#-$&yxYabw7B"
        "$Zp6)!v-po53#u)dQ7@J(CX3_Qnm(!AN0~QjZIKvggCA(2}xcfuA|ks(Y8^vzNXcv4cxVv(EA!j)Wxmj)mMj6qczpR"
        "9tj{ApfJu#CK0X5Zs4#Z-5gS59zO^p-WIy0Mzcn0we-rkNnduZ82_gky%@)6)<mt|*oj{L{_;0w(O6iYGu!Q8#j2kP"
        "n?}_JCKa(xEU1U!l*}M#RiQ$-LQ<n#rm^F4<V|(rz)s?@sb_@8CFfr9z)WH_LrB<lP{*|iJCYGis;I8!$Q_q?jv#`W"
        "3V)A*UWWy+o~zlMOc=R`R5BE3#qAj0InhuvqO&juS77EjEFqm@c35A@9KHMW=T1kJlSR?$N^Vc;>#OS<_0`S#+WT5v"
        "<n3>mjrm+oOPia9NgVn^>?4sbi!iU5bd50D;DALKk10c`6A~PNa-4Qxq1dfKk23z{L3bXW)0@|F8tK~TW?4<)RQRFn"
        "Qzq1;<dS-Q!nC?}Mv*v7QWskQH`UdF*S&=KamFippQpCXLM$E@o0)mfh0#)zNy7*4>2#2>82va#)O^HDInOtd>)LkO"
        "FEv+4Eg$pi4-(El#0#I`@Y&P`^wx{uLe9s7)JKkT5AMKS*oE7f_X(1~kC4P{bQvFHQz!CjG~kB}VaJSW$zd$S)n054"
        "?|fKFp}B>-l^U(X2CTyhEW-p;Qp1n7|FfV?rR8t~+EzR6{vUuFO8J&oa=5#$VFK~?Ql39kKp&WG4k0{@7+^Pue7^^<"
        "#W`Bo*J|a}Fq@QvWFW28d=YGuLCqYT+N*M+snsxQmD^pJ+=-?EtDdo)KmJU|%4~K>`iB71^VRqs56?9W0wlzVDR|O1"
        "k(>7zo`A@Z@iZBZG6r1FFXlo@MM%9?C{YW=z{+0$sJ7tk7Tmz%z5B0k6zO*dvGUw&wTA**hF?szqAnUOgSBJ5gQMX)"
        "HMZS*6l-3g(LwCv*bA+ukE<@uc=c8_S(B<+>45qO#}{x3bT0c};HL~4N+uT#FLKNZyntWNR`W)3t4>2r@hrje?lU|`"
        "Q2*OQ1S@AR5UjOey@l|ynXkm{W(Dpv=iqMhO}N*B-F){9yk+194-0@cz^VdL#f`rJnhDNJ"
    ),
    "openai 1.109.1, pydantic 2.14.3, protocol 4": (
        "c-qxfTW=dh6i!k*iF0W~NLn=_)EI&jgpHG?7gcG32uh^7Yykx*f@n0}9p@}v?<_mBQLHFZ`^3vgRLbyB@z6hl#6$l8"
        "KZ!HDYkM~dEsx*_Yv<gr-+5a2?U#w6_;;e0AAdGHG_+hj2xM)Y*E+86RzEHuS3BHcUiDu245Qj%LeK*ykoCiHHRK*M"
        "LZT}q>lnVxeaU=jh~M+5OhZ<F=n7i@(Kk=eeZtDEkWr^zJuz;21|q@2GwR;~kJY<8+Nz%HBNJT&ETl3Djm~QQmWhWR"
        "5y_u0-$b<DXf%u*4@iJd^W6^F&k^(OE(w@VJ=rz%y5R&N6Uboa7y|W8da+Bl!+2!kx!q%8^c{TfP){%<_$HK-6|LUm"
        "#*kZ=-GGU@4OGT|#O9sAW76fmR+qPtvOOT2>Xm02o1n%Caa>yx62C@VN2>{=ZKG&yRjV-@xN9?^_ce^D(e3!vSBEj9"
        "HQmM@2_P7tFwP1l5v_`@@314?98%*RKL|qJ653K@X(P2-d1Kt9FFT))|BIBKk7F!tqE_$hhOhp3^^%ooB+6ei+ihdT"
        "DvyLs!%7{K3Ryc6)WdKJW)QS0Q6XF*sZpM!zRx8!eoVkc8aXb<kLh;g+i_Sn^^ER><lKuNC>N<&LV~V?CS04aBN@`T"
        "sOnmV+;*Ag2qKs%_^%ju85ZHjb2XQd2}1XfN`?Yf)QaH46AjBobRK5mD$G5HkC09=SuD3?j(+g;MZ2wv@!n{4HM2Ig"
        "wZ__dt#PNedRMDa-uj8znBJA7(wX6y!W}rowi4;G5c8T%whE*54_Jutn5q=o0l|4FMoB{!^UWKyEahJrH0zrSTJ=^&"
        "BiSO|EUIZ7l1?D|lu0!uu@hdOFr%)YQzQ<P)WsISZFOznbuVUqp7QeE7pQHs0E>skW@h{|VOVM^ZusCmlgu?1qaVkJ"
        "S_qjb=fx&6UE59irRH;~Wn+H(%b4?;cwq;J&!#q@w_XI7GCsaad}Jv1VG}l>30tZ6NfM)xki;x_5g+7^j^)*u&kq@*"
        "kQvp2!&rcuzT6z%{j`uEwS}ve7%f2^Zo(wof*Ldu!;g3Vvlvcg+2IDm%dM#Uf534lWLsX!!0?)eNrd0aS^jJeePFIR"
        "ga9#OaNYp)!yew|=V)<Xt54pHx^X#3irHE%<gqs%)YQS5y(-3<S`DLCvDKCF*=QQD>KWVp^RHyA%w`9qe-|)4Urp@s"
        ";6lS7A%er$6dd(UWaj+{B@R<$%#php2HeOl=3+ucNWGpbk%eMV&K?A)Sn$3DA6T%2_1pN@SBv!TMZZ&8EnRrXc2dbb"
        "6x=p)`SeR_)My+09q$>{pwxIz?@S*`G(3npxC%n6nd6F!b6>eviC3p$*4(EZgy>7S7&=pt7w~%u7X_1?hSLo5C9ePJ"
        "`3jr+wR8@C@}~-F51!$Pg8DxmCup3%O0Z_ZO$)*1ZnhE|%@W*i&ckN&UD&dqY2`p~12)sHewzci0e<DsE2{quzrx(?"
    ),
    "openai 3.54.0, pydantic 2.14.3, protocol 4": (
        "c-qxfTW=dh6i!k*iF0W~NLn=_)EI&jgpCstQbnjq2}+<Y3qq+VD$!`XJI-0UH+E)AOk~u)k3<oJR9=7weg+Z`{R8|1"
        "{t9Py*PFGIQXat%)}HH}>vtX&e*9}<DE@WT^4<4_hlZA`M}erV`!(10?CP84ld9`m%&Bgb2Lx4@aZZmIN722LYUn#m"
        "EAb8&%++$!_XP8VW`6ERWg4>bZJX2j7oH{^`#vkTLPo86wX2`$Ifyt52h2YMKQ{09(RQ_ah(dfKU?CMzsBKp38#*3("
        "OoV@*c{-x?Mx&wi{D1^V>hE^QzKWP<c1XZH>WGf!*R>=F8Aky-Bj9MS(~F<9UFJtRo_BgejNV0hk2;(o!_%R3SCo9k"
        "*N*JE=md<{O`szFBc|^L4imQTDS2@hIlHHfAJobtg-wv-gjlvI2#Ki?+fs5uTbrm_TUBz*1m89pSBDBl<mhfpW#%xZ"
        "t)|=9BMt-u<odCKPDII~?OE(tHHYN5;~xc~-{Q)UV`(FmTzPKXB-5SmkN=~T-yg?V+C(K^+7F-p{`41CrV%fH%1pbB"
        "6{~#AO&V6}m{iEx5vLA@Q_zE;WQlTab3wK7B=tOBQ2mY$xJV<*_VHu79eHLPmPs9LJ0X1Ei3!w;<SZdU$3hpjN!YOn"
        "X<Sr!CC6^t%&|D(Oc(q+jQbjtVezq?%jpE6{eTLF3P#k5;PtM8Wvx07mthv>9>W{Rr<g33TQE!AdiYbjEsOEqD0w-z"
        "Hnp|J+Ip?ASzEoX<fz~Jl9`y^rKHli;TU(BpcWNW=cN6Faq>t_;dVU0h7)145b4=u-!KpFh=mxbu2-QQ5S)}^l(cHG"
        "zpbauOy!qO+j!@kCccofNcKxLi*g#r#|=crnUqrkd*oz{8F}@LA+azo8=C{y<(1P{4`Si_sjUC?1!|fsz_MZ+m|l!r"
        "7+8*Y6i(@xWa6<HSsWvBA!NGH&u}p*a5OS9*WM44#>)A=O!Fzc_(?4Jhw$M8Y>`P#VC3u2#u>_<osPLy7Ul&xWxH7X"
        "Oaq$vVD2Qr<TyKU1GeEN7-^W3B*r%`h=z<J5@b`w`f|+kA27r<J^TfWu>i4SxjDSQQ%JDiz~xPxHedrLp$3~!f_mck"
        "?%sd)Do|0je0>$lt*G;VxC~Ip&qgT+>}v`p5zsH@<+FWw26N3Jgq#t5IW*+o?jd;pz%3ps`PTDsJT3=GuYi&Z{b(Lf"
        "bo#)+J{Dt3C5O?f*y@P*5H&UY^_=bh@n<qt8W94LT^dY}%ZUR&IM*?B;2SuJT|qZ<k(>7}oIoeV+Cesan+o7serXmH"
        "F2eNHz7iRz2Ic&Tfr<gI8t|F{OIW{m|MeXt*#*ivrR37Nr*SXUJV3==t=FG^Nsel3joafrrwYE8<2}29K9p#96uGzx"
        "T*;Y}3Sx^}*{Z~=Q_*YgQ5T{80xpKiRpeLrIfaXYPENs-obWez0;RJRUWzZ`ApG<nKd9Y$ghvnR&pda~ID6+{&49NJ"
        "ST|t9K*-t3*W*UB1l!Gd*lE5DHw`fIebvCXllJyrAJp|wYyiWe`rjh{0Id"
    ),
    "openai 1.30.0, pydantic 1.10.27, protocol 0": (
        "c-qxgO>f*b5WVwPEPPoP=q^M_)JHBo1aM&>b%7w+qG$_&tEFi*T8R~<APd94wST0CzL}Nw%Wje6)cPPVhn$%=oX45D"
        "-nc-luIJYEi@05EtEQTNJA0gO+l{H`uVxn;^R4k-TjR0y%j3LjYeR?p&i7_Z`(@kors+xeb34p*XJ&6Iub00LL7>Wp"
        "WOeny%+{UJo8|n8d`(scZ@LQ`KRvW;W7iJf&7Xe5Cj2<l>3--)M=lkC(w~aH{a_k`6$e2;=UP`dEa~@sXZ{#WQ|=09"
        "8eR80k}qk;b;e`EJlpWlrx@8~wKeTPc#>%o=(kwk=-L|y8iMlljc`(wW$SiDXRN>nk>Ko5_H8FzD6X*wKh?6|Ipde*"
        "gYNlLl<n5lrmxyYyvF+Vap@va7R7p~>b`1<LbU7OP1y?<i@V+_@zy2cdgD^DDvC{2_Bi1(lH_7lZGZ>KB@ZPGE+p1c"
        "cnI36G#)EJs-294{akFM2)$TX1|SK6WC$`9mOaZ%tnR@U|9}h7o??(dLl=rW2;jeJHs%w4OL0rfy0xxr*T55o;?A!|"
        "iedS=z=}!b{PKP{7@F{ggg0co;e<B?-jQ)Q38de5fBk7@dhoNirmXIf->V;esk^HsvO$1}ulOm&N_$`VUXx}NV&{Hn"
        "N(NNwx`r&Gc>1=jS%3(mm?WLKAH1dm3QLdN-B+gG_`(~`V3eFE9byPmagA(6nXquJEud-(1G;xnj<8~aRurzQKI+~S"
        "y6?McJ>b_zT@S{S-B?n<F_5mkxA0;|qcPodL`Fk=Bw0pwU^$M-vJ&2ox(ReOD1_AZ1_X;!aVt}q1^fpDTsR=dt)7&Q"
        "MHqzfB1jithl_KZn~1DNhAvNd<`mI%UsP~4jWr#@qFYuW$mI$!Sw%Q9?DMPQmxywt$Nt!n81F|lHPS*Qh*G5#pvp#C"
        "sGMkVFtIN$!X<&Y#dWN}*sbf2VsM$?R^RrzK8iz#lgs19#`L-(IwTRfN@BRu<%8KA6_vO}fc`mz6J_Rcg15haXSk=M"
        "ekN{_=JPBkxv&XkIU)Welxl>7PeQ3q16)EX52;R>Cab3XXiyl1OBrhltQ%wSlv72;BTW#Y&^O@{OuW+<9#cFrMJ^Qc"
        "iasd;K*F>Ib@0h(BVYg-0mu&kvVZ~nhkKLmXPcIK(`-HL{ulizll)R_G%`O6apxIlHj78*XLuH8eItY(NNo4*B1`us"
        "4ox7Vyk$9eonW+)!w*&c)7qDVP<AZ(RA|1a>AX2KiG0GIQ*Fu>yGtg&1TH6-dG@)@gELc%UFf2PyraF*H(cja-wWum"
        "$bfk&gK%nnK|~=#g*q=@%9{RDxmfRdZn#0h9XCML1VDXgezcW|n?<k;6;}~g9NVG{I3kIpd{s#AT6YLRqDqZ1NXosG"
        "oO~&#>`Te%kLg2oe}arMwufv_k)FMFNizVcYSz+xQj@2QJsqF6q&Wb6<Xk-@(gZmxJ~t9FTy&|Uk@zJeiW$Hf32US$"
        "8X1)oI}R51Fc-*>I;cc<r&DOJ<6T4{8@u!NqT9=eaBzRO=;=H~#a}qB6o<$0^4#(c+pl?!kkQnsWW+H==^kEo0Gf|)"
        "7U!uuN}dL$afH_L>(Skum<cB!7#RQr^8vZXgfIfZfUwe?9kwWvL|qj5)#Fu#s(AJ4iVN%26N!<CRin2&OrlPpe&QEe"
        "#YHw1QGy!<9iyZwrhz)4fr`0LP)KA$iPN~z+AmEKNn<&-9ZL#qmpQ6VIGVh~QMAte_!Y(D3<lkVF(oIMlK9z-B@^`z"
        "LzYZ9smTdZlZ<`av+;_1^S{hhG9mOY4pcIwqN`}Ww&S#9591FUkbg9Mp5vn_m+190Al#Bw8gN1aKqF1`EKe8)#(_eP"
        "Qw5pju+o#T((L)QpyTgn1Rf7woD2{@S;~&XiOhI9S^f=g5M@R"
    ),
    "openai 1.40.0, pydantic 2.14.3, protocol 1": (
        "c-qxfX?N6Q6fTr?09gy76vjcBpmc0YDTqodl~x%TG!_ZM7&Do7dP6fwZkF1yM!|i@4G}lo_kI21Iey>|_>;WvO}a2}"
        "JisTN4|9^cy!UzUee&EGTNG{gtd<rfKjMWQJ#I(ca;*H8>_ooqR)wA4nQe09>mmq@5fPB<$VA?EZ6Sk#Mi7d+^qZ~|"
        "3MZ7t!)}x{e39K}1xDehBVTQ6RAei@Fsg-oEXzzD5Cy_-N<RcHr#IZFFCUl5NhLht8)4+joUXz)iN_e%Lw8g-5>ZcQ"
        "XQzyFJ>8>M`CRh_M#3>0x+fgN4ja;5kRHz$0Xf74j)3yz^|+)}7j7i+^iDbneVyJ14LcBIa3qv?GtM$i*K6p$7|GBd"
        "-Gd?{Gj#n7&Q{1pMXW;D@I+8B!3g<JH{H5ti_mhN%mBR)Ouu5Qsq2-<vO~+!^^99NCd@E{b4nr3RdHU7^A&ADOG}Hc"
        "S1mKtbzBhRLPeWRCaa1WEkh5ogh?lMbm1axJ{w%i6ag+S;}W<;R5BxjSAnd&RK;a6E?0nxtx&WjbYzWq5dhuT2wVqO"
        "YIDdY8;Gm4xe|+0730`eY+<mrJL36nCBW4s#*>l>*IW`9Jq>Sa)&A6qS2M=7Dqa)gwTy9{l3Y6>6}D^Z=xxY9_vg8@"
        "B5OoJRu!gIqbcSN1g7EV3b>vVd{K)6!^RCIzK<j+X0?U%Xas>3ga#dUU2^@%F&Ud_*f!=$-1pFRZ8ikBu@q@5cuZcS"
        "N@<p<i}BDmXkgdJc!Rd)d|%BHb~VrgAt$=&JO+?0gL$QliUL_^hYcdc%_`ogtvde*&$q^mP*DC&rKl1CmDvKDKxTF*"
        "uo_lE8?2$+f{HhT3^9@((F8+L#m>FQ&(vx>JC*?K(pJ;+3>E0;?(FXA=-l4XwFA4gdE`vUiCeX$Dd`H+L&F|zv806X"
        "$B0OJXbB&;mAEH~XwaRV5#bYTYHBa{yXNU#xScUX%#R%x@?)A6QNoES!@-0Nw=f%as(5RRw=o-TSG48KhN;v<IB-{S"
        "E)SEqS@*(8YhQ5@Ll521uqTcE#bw;mI~1+0IYY0C(6DIeyJH;S15LvOQJu`av)CGFYcGaiDsxYagW57?p!}YwGn2_f"
        "#o0lW&hah<cEc{{gFVnsle}BSy)ZTGB9GH?#{_8_?u&6h_p~a6hov$eP>QpL`lW?_CHi#IGw)HL3o@`6wn8WL!VWt3"
        "UKLe7R~!7#t_UN{R$aLwvX!Xue^?Xu5tX5pxjC%j!5HsnZXQygNwd3A1JdckGCon?2UI)~<57+;E3mRzYaRsBS^B~+"
        "L)iDFf}BB}OFX2a5o3i*m<qI)v3hCJ%)Ql9eQy%zVd+aNWl(UTnu;Sa0vECr{?z#hJf;!XS}Hiown`(Ub!C^aUQBf="
        "ErHI^Uw<bgPCrslpV}^N8NDlkJ?wf@Fp**UDh4rz3^P*T7>oje86z+-4S+wphtuz9Tt+!S=VL>~M-qkQh>0}f(Imp<"
        "m{`Tfk{H-f;;_flu;b8fgm^;5C)f{iM?$jVo>cLv7@uZT&(M@glnc%K=~>8?U}G7dyR6-+Px0yETXvY-1JaAnGn5xp"
        "d@;tC7|P3%!}D17Y?~DP72f%i8xl`mDUiYRgbcpQHD6Ql^%&panr|w}wf&K(PNERtDVEQPoJA^-+nHk_$;J2<i=boF"
        "1)kPgC9|RizRe9klQ#Sv1x~{$n#sE=zL)5p%#l#>eK^UnAEdEo>8e0RivCc=k7i8y<22%vWJ_<Ph)-4gY+9c`PXoS~"
        "xs1P5@vD>uoqJEv0)~HGyI;e_ckMT@tpvR#koyvn1^BIs-^KVnH|qxlb`=*wU$G7Pi|ZN9k13j;$OZk-M_7JV@t0}1"
        "zor4d&D;-iJN&NVA4yo@AEL?%0s"
    ),
    "openai 1.109.1, pydantic 2.14.3, protocol 2": (
        "c-qxgS$7mw5Dp+<29RBl%`q<1C^IGj1Oo^f44Q!kTaZQ_+n$~~sfM2Ju3kb0Yy}nfeaC&@_kH)lKj2TYZr#bk$dPz_"
        "(LCf#*ZS41?^fMoQ#0()%xk7}bZCX4Fe$DJiVfFy3v2R63yq*Ayh2~TO;KowIJSpGOsZRs7NWot(kO1miD*c@6Znbn"
        "6Dd3pq<K3M`JHZTmu~gtr{^9L`D!HWTB(r9G@}91SVV2^`ypWWW{_?zWEE0Uicmy$l19>}r?g(;u}7>VI3#?DXkB-A"
        "x3mjFE2K~PyB-Nlh3_=2Q24f&G^M;GHDM%TQi#7OV)B>eaZ0x#f>h$UVpK`!8}vP3d$AyaFQH_saf%bjKyE2%h9WLG"
        "U?=>~a)L(aiNp>3Tt9vHkALFS)yHvKhG%K!*&Q7nmQ{0|#IkUDhBGvCDv8`0&NOrMLq>AQvDkxWn=@GuxQ>Xivx2!v"
        "WtQeSoJARDXE;X#N^*{7&Y@6sYHbV_)fERm&Na^>nLGoWXHJ(G{F)fS`Q;7<=><b!6jWnepfipZA8_HBL0B!@wqw}U"
        "lHwx5wm8Fc8QT&~m8tlEOU)JZwIlld=igrwc{`2shH%_EHK1#E?ATFP3D0APNYvBV_Hdcbbx3~Ua<h|u+Hvg0iA}*)"
        "n6u=!?+1x35yZGs=Thyo<_5S*SI3h24#ReA&%^U|?n4p;9t&d3>#4bb+ZHx!6xMYtF_J_!HSmHAyUZo0>gulWYOxgy"
        "+2IQv%c`cXm$<%V<w%ypiz;}r21{W%EE6a25(5k7qEjP;kvnWBg4{Jdt)@U(R>Orrj+bh%0OrG7SV*py8Mp?dg{@AI"
        "`kIIu76*@=tk=0rzS~$b&!yiJu6MDwyLVl&dqc5jBVKOKAZ1WJD4Ybl&ABZKmd3k@J?3ml6cG&*v#i7w5%%hQB5E2?"
        "#r}|p2sIt~TJA<Yw0dwIV@R1b>)Ti}&XrU#WlXS7apVf($c79zGDoh|%=yfbF)uX<u&+FwTS!c8gvqFMQ+XCcPN?nP"
        "sBm+6o_XHsf><??*e>;X%cL>xWykHxFNaqV)~y+CW2{$e<}%4J#}Og5gPJMiZJz-88lBNG2S;W7x;c+YEw3gW=cs&p"
        "c`ApCgly1h!(FR0Lk1K>cEEP~1YT$0^-K+Oar^0vl{<Kba`&)TTd8F#b!UdVxKv$(eszT$+W`XCLbSU)jUnw(kZyq8"
        "1j#V)Mi}GsUZvWn!Di@#LD&MDh|xD0xL?7R_txTx9w!zJN0Yfk0&4>v;0QM}>HT0>&`8HyGQ5?UR}&({N(FDz%2Rf1"
        "lM?#VY4WIqmIg(b2_;w$-LMuqDe3J7+A8V5e|ACINxl}y1(~m=&Huxatb$y5PKGsRiqN2Kz4c-pXr&E-TvU*u%XSAf"
        "nA<*n4*{(tSTO0`x3jgla_CX$Mut9z4ru09Fr38p;sdl=`>$<>@pWir$RSdKD8rZ&BpP#+y)iY3OC41lW?8kF&;~zT"
        "!I5%nShu2MbH{IgD2}!!R%nea-Xj$}`j6r64Z<;acM!ZR!#f$?T^gh?3<TmBfq?PEe4CD|>v6XRhsmr-*Ww-n?^WA{"
        "4NfS7`;@^EHo4!x2b2jcQ$y%MW%Up&r5pdSfse2n7J^*)k7oE7LwTH9p_2==@9QUEr4FlfIA4c+1)rS!OT!x5;bX)("
        "{o`YxWw)2i`lS^<MaZ7c@EJz-tmNqo9%!CNE9^Ob3XKNG=l>m|(d0RNfs&rg@I_AglBSL!8cG{<<70f8cfrvvm#%nM"
        "Ul&h_t_)w{0q5Hdfv=j=B(2gWzQ*VNx;pnaG<X$Wrp~-+;9F{@Nf(J0--hSe^c`jTE>#L7BjfiBe1AfxKTrlAYLJ(&"
        "6f*e8z>mjA_a{pK>BOhVX9j-WVnT87I6Xh$Zyz0B!0BHaUqY`AYjqmVa{Ygm;n#dX-)PWR?u1R{#jv@&3byDlsOa{s"
        "g7O{dVH0d7Am1DKgW}x8jqxK}|D>#cp11<!0{F$iUsZXfKLL~bWib"
    ),
    "openai 1.65.0, pydantic 2.14.3, protocol 3": (
        "c-qxgS$7mw5Dp+<1`&uLh%94VrqN_fVgLy!NRSAF4YpAlacp~f?xb3Jy1ROb8DlG`xbF*!xbOSEFUJS}fIrE)btelW"
        "N1{)fhn(qJZhg1vtEzi=PKIroxqVh!n^qVJlkWbYyYBjKp({ULs0UTy6$bJxib7q)u{|PUQXL#GM1d!yQQU|VQI~or"
        "@Dt%DQg|Rp^L8Zid)(MA-s;Ow&pjmal}OmtVj+`ZCJsnr5w*DQhk)H1LAte&l}Sk<LJ`?X8cCnt;(Ce49<!3*knkm<"
        "{+^y5X%~c6NT2d|EfSat-)UH(@NF+?NO@6e!brrV5Pwm`<S(zsA>FzNQi*57gp$zL>3gT`#exLBgp#epSxz7ia*IhL"
        "6mii3JK=wp6VyXbByQm62I+fn>Jw+LJAzb%Gc@zewzf9Qs=7{MSvWVtd73$!L~a%5n>qR+PjbkyyBE(i=d&Pi9T8)D"
        "8FMp=EX{McfFhoi;X(~4$l02?kdCTRX=AYHUUA^#BJ&KA$sFKfbFReTSH&1EDYY?3FBl1<pb}$;&N!NUz;jLy!fM*K"
        "q~ZFe6qgdVWf`8!*p_SRnu-s&!dyjPL(%WQ{QkPg+i9FPgyYtz0G)ed$BsIScpf`MqL#+ChbwiyhvXNYZ?@A<JC5Br"
        "vFWf?d@nn#x&f}%RSr_$VT_LLdALUBq$fe(u^`5^dTMrXjlxEi&Tt(|j3tpx)yijhfw}x-UCk9<HMU|Q%h~BvQrAmd"
        "KhBXLhZmOdA`Mo+`LI$P#fuHR#9Vr^dl<Q+b|T2Ppr@4-D1-)`K#uD)SOiPp9Oxj|OAWjXq=l_=MHNg$6}xsHK3=Qw"
        "9l49K+dP+kPiy4vzMj7R?w*a^y;ow<oJY!_a))pdyxd&WBwKN+ZrEd<B`G1IQR0x5xFW({oztQEp04YUh=@>Aa{D;%"
        "wb1ItD;Pt{{OE7t#}q44#feG5O^OZci47Yv+{kRWQZtt@8z#L}&*P@jT&^E+vK}TA(t*+fhMWY6?M(<bmlm7no$3&)"
        "DiYhJB5#>7#$k5cq5N`q6=A(P!>x>Un`W+*^l}^#QaPxYLiY7E(AVgUjtMv++pe37nZB|KDV-DY!P0C#E)udpr#x<l"
        "&J4L$F=QtU+DCE7!0VVA=Cao8OkQ`_X|B7Ey;`oio32{Qa1USgdJVR#{&8#v2wW49UYf&@_9{sGKqp8y7-+yGpKnyE"
        "VGTCHE*OB#u!R_XlYuuY*b8Jw@a&Egi^kx7<`N04jcD=-2blDJFe+$x<1HB;Wad?c2=Uf3mbKEXp>0w^e>%+=74S9<"
        "+F?F)LqBxE<<Lh#Edy^?L3jRVSD~HctASjF`AXXOKdeI=<Z`QI=rB{N8ni63J`_O9s|Io<jbsRH=hA#@oxOJeEg$HZ"
        "@s``uTv0hZL`QoW*7<0kW^NgS8SE)epw--TE!&FQp&22EAqBt;BMuO2%u)8n#3U}YRWM~)rIFCC9xdaYrRK11o{nQf"
        "zx|;&+MHOSHMwFNWxVSj!yOL7NqFM~@9qpUhIfw!38X+E?j;Z~6_~r}uxgJZ8jQgxB-9r78F;_iE^P3CGB~OX8f@~Q"
        "fe$GYSgD54!^-LrSV0~CsDY2Mn)a1k?vH2q1Ved}N}-brv~K37V6_fwbXZ%)r)U14uqMfJ>ZippsRyMNpCJ^_X80VV"
        "cwTaH9uF_iqjmKHKX4{q0(k6S0od7e&*6&{>!l2jbF7y&b<=1hty5FSc!J0Mc&AHU+&R$6gP=3RS9pf`c3t4B<{ZhK"
        "w1Ka2YF}5WeM5s2@G2$$O#|OjV@tY7koYznW7Bt(>AM<`1m=_Rdj`Hgt(YGugAdg+WGxwdWZ=hB)A<vn|8)9m<1+(4"
        "Zx*|2_Yrzwz~8<rzJOCdCccDT9r|>dzjDKWmEqT%pl@gql-gmSv<x<v*1#4Wb}2@EtDt-*7X_^e0`k3qKPXyFUkX36"
        "^-s$B=aZ&9`TSzwuj+cmKLOGlQHu"
    ),
    "openai 1.109.1, pydantic 2.14.3, protocol 5": (
        "c-qxfTW=dh6i!k*iF0W~NLn=_)EI&jgpHG?7gcG42uh^7EEfeRf@n0}9p@}v?<_mBQLHFZ`^3vgRLbyB@z6hl#6$l8"
        "KZ!HDYkSuTlt=J`wR7&*?>sI3`t#IC{5#dFk3Sh58Ck6!2C}xvYaQ2js~?t6svYhyuX?XM#He<d5cH4<WPN{94Y|jR"
        "kmw4@I)-m^Uou}B;&(hM(~y-Pxq{Yz@Xgb6pRjT(WYnowPmP<Nfk?1$Nc~&jv3i$B+tt$pWTK0Jg;YkN(OIwGGV#!3"
        "BKZ^Mn}{|WjfRoq0SWMFzS|-DDPq3eB?0rPC%cATH=H130vYTaL!iD%FLvp67>`Umw|h*CzJu>w>IsGf--L3yrqw&#"
        "7;@{f8!%C~fy(%g*t`>XOuF3H>hca!b_Rqqz4lCF6VxOjj%!Oo;@6n#Xf<WDZ4|AoYc*j5cWoy0frc?Pz7xOt>M&un"
        "X4}{!0R#gS##zB6qE*rL9d@jnBWlv)he60&LR)GgZKPIfuZ^4ZWf$}Df0okoaZIF5)atFh@YV0HUa~TcMENUbyKSsk"
        "<#S=vuu{jQLe`E1^)Q@*83e6LR0vl{YLus`?{i6w9}{qqMvlwzW40anb{v*XJ)=7%IrriR%0+6Pkf7_J3D+j<ScWt%"
        "s=AgTw_WBrf(T{`{tL!khGn?%TrFf|g3vvplA(YVwIX=`RKuzfU4(hK3JcHS1Ef<-7RxP}qaQwf(Qd0^yf<21&8$sr"
        "qp`7BYuu@=-_>fIw|-<crgtT&bY?haa0iaCtwg#k#JuK{t-@&iLl$B@rYePYKyV(4QPPm*eDek^OZis@&HDO+R=ttY"
        "NVZ5fi)t2!q!Y+KWm?Th?1a}R%&F_=6p6zmb+H9-TU{G?-H(}{ro6oOC2HF&z~W)CnHm2~7?zre8$Ni?C3B6%=*Kap"
        "mO^IAd9jI1*Y=Wrsl{As*_hw_BIf)<ys(SIXHy%{TQ7o386RIJJ~EUCum$&F8=9&2X%eH6ki;x_5g+7^j^)*a&yN_Q"
        "kQvp2!&rcuzS<n!`?!!GwS}ve7%jm~sKG6$!!$G!!;g3Wvlvcg+2IDm%dM#Uf534lWLsX!!0?8KX@uX)S^j(uePE$E"
        "f&ejQaNYp)qaNPo=V<vrtB+ofx^X#3irHE%<*_#&)YQSyUKL|atwvF+*y_soY%~p6^^EQP@n<qtX0rp*zYCb2ucr2S"
        "aG_z45W!Jw3Xc0GGV^|f62~brX2{(f18!s&b2*_Rq+ZXJ$U-qFXAc5YEO^&~_bgb!`fdH|t3~?vqTea4RxUhbyQ$<p"
        "3ho%WeEKCdZnO>lPWFsyP-?QLH`Ip`4G*IZu7c2N?xf=4+*j^Z;?=2`HTP);A^H+7hR#&v1^kx6MZqMe;Vi=}!5O?f"
        "Utx2<R?fjs{!~Hj;WIo@Q2*QG1da1o2{tUaX(8O)%~oQoS%Uk`MR?GB8@4TITEn21cJ-Sa$n{bfLa(U)7s?;p?E"
    ),
}


def load_pickle(name: str) -> bytes:
    """Returns the bytes of a pickle."""
    return zlib.decompress(base64.b85decode(PICKLED[name]))
